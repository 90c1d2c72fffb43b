"""Is there enough, and does the autoscaler see it?"""

from k8s.dashboards.grafana import Line, Panel, Screen

AUTOSCALER = '{NS, horizontalpodautoscaler=~"(keda-hpa-)?headrace"}'

SCREEN = Screen(
    "headrace-capacity",
    "Capacity",
    "Is there enough, and does the autoscaler see it?",
    [
        Panel(
            "Replicas: wanted, asked for, there",
            "Wanted above the most: raise it, or callers are refused. Asked for above ready: pods cannot start.",
            "short",
            [
                Line("wanted by demand", "headrace:replicas_wanted{NS}"),
                Line("asked for", f"max(kube_horizontalpodautoscaler_status_desired_replicas{AUTOSCALER})"),
                Line("ready", 'max(kube_deployment_status_replicas_ready{NS, deployment="headrace"})'),
                Line("the most", f"max(kube_horizontalpodautoscaler_spec_max_replicas{AUTOSCALER})"),
            ],
        ),
        Panel(
            "Demand, in replicas",
            "What the autoscaler adds up: at 0.7 a replica it asks for another. `pods` is how many report it.",
            "short",
            [
                Line("demand", "sum(headrace_demand_ratio{NS})"),
                Line("pods", "count(headrace_demand_ratio{NS})"),
            ],
        ),
        Panel(
            "Demand a pod",
            "1 is all that a pod can do. Uneven: connections stick to old pods.",
            "short",
            [Line("{{instance}}", "headrace_demand_ratio{NS}")],
        ),
        Panel(
            "Offered, and waiting or running",
            "Work asked for, refused work included; and work that is here, per latency target.",
            "short",
            [
                Line("offered", "sum(headrace_offered_ratio{NS})"),
                Line("in flight", "sum(headrace_in_flight_ratio{NS})"),
            ],
        ),
        Panel(
            "Capacity, tokens a second",
            "Of texts like the last ones, in full batches. It falls when texts get longer, or a GPU slower.",
            "short",
            [Line("{{instance}}", "headrace_capacity_tokens_per_second{NS}")],
        ),
        Panel(
            "Exchanges in flight, a pod",
            "Uneven: connections stick to old pods; a Gateway spreads calls instead.",
            "short",
            [Line("{{instance}}", "headrace_in_flight{NS}")],
        ),
        Panel(
            "Pods that are not ready",
            "Pending: no node, no GPU or no quota for them.",
            "short",
            [
                Line("pending", 'sum(kube_pod_status_phase{NS, pod=~"headrace-.*", phase="Pending"})'),
                Line("unavailable", 'max(kube_deployment_status_replicas_unavailable{NS, deployment="headrace"})'),
            ],
        ),
        Panel(
            "Restarts in the last hour",
            "With exit code 1 the server ended itself: its device was lost or stuck.",
            "short",
            [
                Line(
                    "{{pod}}",
                    'sum by (pod) (increase(kube_pod_container_status_restarts_total{NS, container="headrace"}[1h]))',
                ),
            ],
        ),
        Panel(
            "Time to start",
            "What a new pod needs before it is ready, without its image and node.",
            "s",
            [
                Line("load {{model}}", "max by (model) (headrace_model_load_seconds{NS})"),
                Line("warm up {{model}}", "max by (model) (headrace_model_warm_up_seconds{NS})"),
            ],
        ),
    ],
)
