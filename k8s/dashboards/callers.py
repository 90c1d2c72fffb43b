"""Who asks for what, and what do they get?"""

from k8s.dashboards.grafana import Line, Panel, Screen
from k8s.dashboards.queries import CALLS, LATENCY, per_second, quantile

UNANSWERED = 'headrace_requests_total{NS, route!~"probe|other", outcome!="ok"}'

SCREEN = Screen(
    "headrace-callers",
    "Callers",
    "Who asks for what, and what do they get?",
    [
        Panel(
            "Calls by route",
            "Which dialects and tasks are in use.",
            "reqps",
            [Line("{{route}}", f"sum by (route) ({per_second(CALLS)})")],
        ),
        Panel(
            "Calls by model",
            "Without a name: refused before a model was found.",
            "reqps",
            [Line("{{model}}", f"sum by (model) ({per_second(CALLS)})")],
        ),
        Panel(
            "Calls that got no answer, by route",
            "`invalid`: a client that was changed, or never tried. `cancelled`: its own timeout is too short.",
            "reqps",
            [
                Line(
                    "{{route}} {{outcome}}",
                    f"sum by (route, outcome) ({per_second(UNANSWERED)})",
                )
            ],
        ),
        Panel(
            "Latency by route, p99",
            "Long lists of inputs take longer: compare a route with itself.",
            "s",
            [Line("{{route}}", quantile(0.99, LATENCY, by="le, route"))],
        ),
        Panel(
            "Latency by model, p99",
            "A model that is slow beside others waits for them: they share the device.",
            "s",
            [Line("{{model}}", quantile(0.99, LATENCY, by="le, model"))],
        ),
        Panel(
            "Tokens an input",
            "What callers send: a change here changes every other screen.",
            "short",
            [
                Line(
                    "{{model}}",
                    f"sum by (model) ({per_second('headrace_batch_tokens_sum{NS}')})"
                    f" / sum by (model) ({per_second('headrace_batch_size_sum{NS}')})",
                )
            ],
        ),
    ],
)
