"""Does the device do useful work, and what waits for it?"""

from k8s.dashboards.grafana import Line, Panel, Screen
from k8s.dashboards.queries import mean, per_second, quantiles

SCREEN = Screen(
    "headrace-batching",
    "Batching",
    "Does the device do useful work, and what waits for it?",
    [
        Panel(
            "Inputs a batch",
            "1 under load means that batching does not happen.",
            "short",
            [*quantiles("headrace_batch_size_bucket{NS}", 0.5, 0.95), Line("mean", mean("headrace_batch_size"))],
        ),
        Panel(
            "Tokens a batch",
            "What a batch costs by. Its most is the cap that keeps the latency target.",
            "short",
            [*quantiles("headrace_batch_tokens_bucket{NS}", 0.5, 0.95), Line("mean", mean("headrace_batch_tokens"))],
        ),
        Panel(
            "Padding",
            "Share of what the device computes that is padding; 0 for packed models.",
            "percentunit",
            [Line("mean", mean("headrace_padding_ratio"))],
        ),
        Panel(
            "Real tokens a second",
            "What callers sent and the device computed, padding left out.",
            "short",
            [Line("{{model}}", f"sum by (model) ({per_second('headrace_batch_tokens_sum{NS}')})")],
        ),
        Panel(
            "Time with a batch on the device",
            "Of each pod. Near 1 at any real load, so it does not tell how much more fits: demand does.",
            "percentunit",
            [Line("{{instance}}", f"sum by (instance) ({per_second('headrace_device_seconds_sum{NS}')})")],
        ),
        Panel(
            "Failed batches",
            "By model and error. One input that breaks the model fails a few, and its caller alone.",
            "ops",
            [
                Line(
                    "{{model}} {{error}}",
                    f"sum by (model, error) ({per_second('headrace_batch_failures_total{NS}')})",
                )
            ],
        ),
        Panel(
            "Waiting for the device",
            "Of the inputs that went to it.",
            "s",
            quantiles("headrace_queue_seconds_bucket{NS}", 0.5, 0.95, 0.99),
        ),
        Panel(
            "Oldest that waits",
            "Rises without falling: a device is stuck or far too slow.",
            "s",
            [Line("{{model}}", "max by (model) (headrace_oldest_waiting_seconds{NS})")],
        ),
        Panel(
            "Waiting inputs and tokens",
            "The backlog, over all pods.",
            "short",
            [
                Line("{{model}} inputs", "sum by (model) (headrace_waiting_entries{NS})"),
                Line("{{model}} tokens", "sum by (model) (headrace_waiting_tokens{NS})"),
            ],
        ),
        Panel(
            "Refusals by reason",
            "Calls that were not run.",
            "reqps",
            [Line("{{reason}}", f"sum by (reason) ({per_second('headrace_refusals_total{NS}')})")],
        ),
        Panel(
            "Inputs without work of their own",
            "Joined to the same input that was under way, or answered from what is kept (`--cache-bytes`).",
            "ops",
            [Line("{{how}}", f"sum by (how) ({per_second('headrace_reused_total{NS}')})")],
        ),
        Panel(
            "Error of the predicted time of a batch",
            "Admission and the demand metric stand on this prediction.",
            "percentunit",
            [Line("{{model}} q{{quantile}}", "max by (model, quantile) (headrace_prediction_error_ratio{NS})")],
        ),
    ],
)
