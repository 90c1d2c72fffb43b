"""Do callers get answers, and in time?"""

from k8s.dashboards.grafana import Line, Panel, Screen
from k8s.dashboards.queries import CALLS, LATENCY, per_second, quantile, quantiles


def budget_left(missed: str, asked: str, allowed: float) -> str:
    """Write which share of an objective's misses of 30 days is still to be made."""
    return f"1 - sum(sum_over_time({missed}{{NS}}[30d])) / sum(sum_over_time({asked}{{NS}}[30d])) / {allowed}"


SCREEN = Screen(
    "headrace-latency",
    "Latency",
    "Do callers get answers, and in time?",
    [
        Panel(
            "Answered in time, last hour",
            "Of the answers, how many came within 0.1 s. The objective is 99 %.",
            "percentunit",
            [Line("in time", "1 - headrace:slow:ratio_rate1h{NS}")],
            kind="stat",
        ),
        Panel(
            "Latency budget left, 30 days",
            "1: nobody waited too long. 0: one answer in a hundred did, and the objective is missed.",
            "percentunit",
            [Line("left", budget_left("headrace:slow:rate5m", "headrace:answers:rate5m", 0.01))],
            kind="stat",
        ),
        Panel(
            "Answered at all, last hour",
            "Of the calls that were ours to answer: not refused, not too late, not failed. The objective is 99.9 %.",
            "percentunit",
            [Line("answered", "1 - headrace:unanswered:ratio_rate1h{NS}")],
            kind="stat",
        ),
        Panel(
            "Availability budget left, 30 days",
            "1: everybody was answered. 0: one call in a thousand was not, and the objective is missed.",
            "percentunit",
            [Line("left", budget_left("headrace:unanswered:rate5m", "headrace:calls:rate5m", 0.001))],
            kind="stat",
        ),
        Panel(
            "Latency of answers",
            "From the first byte read to the answer. Refused and failed calls are not in it: they are fast.",
            "s",
            quantiles(LATENCY, 0.5, 0.9, 0.95, 0.99, 0.999),
        ),
        Panel(
            "Latency of answers, all of them",
            "Two bands: two kinds of calls, or two kinds of pods. A band that rises: too little capacity.",
            "s",
            [Line("{{le}}", f"sum by (le) (increase({LATENCY}[$__rate_interval]))")],
            kind="heatmap",
        ),
        Panel(
            "Where the time goes, p99",
            "Queue: too little capacity. Device: long texts, or a GPU that is shared or held back.",
            "s",
            [
                Line("tokenise", quantile(0.99, "headrace_tokenise_seconds_bucket{NS}")),
                Line("queue", quantile(0.99, "headrace_queue_seconds_bucket{NS}")),
                Line("device", quantile(0.99, "headrace_device_seconds_bucket{NS}")),
            ],
        ),
        Panel(
            "Calls by outcome",
            "`refused` and `expired`: too little capacity. `failed`: ours. `invalid` and `cancelled`: the callers'.",
            "reqps",
            [Line("{{outcome}}", f"sum by (outcome) ({per_second(CALLS)})")],
        ),
        Panel(
            "Latency budget, how fast it burns",
            "1 uses it up in 30 days; 14.4 over an hour calls somebody.",
            "x",
            [
                Line("5 minutes", "headrace:slow:ratio_rate5m{NS} / 0.01"),
                Line("1 hour", "headrace:slow:ratio_rate1h{NS} / 0.01"),
                Line("6 hours", "headrace:slow:ratio_rate6h{NS} / 0.01"),
                Line("3 days", "headrace:slow:ratio_rate3d{NS} / 0.01"),
            ],
        ),
        Panel(
            "Availability budget, how fast it burns",
            "1 uses it up in 30 days; 14.4 over an hour calls somebody.",
            "x",
            [
                Line("5 minutes", "headrace:unanswered:ratio_rate5m{NS} / 0.001"),
                Line("1 hour", "headrace:unanswered:ratio_rate1h{NS} / 0.001"),
                Line("6 hours", "headrace:unanswered:ratio_rate6h{NS} / 0.001"),
                Line("3 days", "headrace:unanswered:ratio_rate3d{NS} / 0.001"),
            ],
        ),
    ],
)
