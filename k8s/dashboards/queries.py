"""Parts of queries that several screens ask. `NS` stands for the choice of namespaces."""

from collections.abc import Sequence

from k8s.dashboards.grafana import Line

OURS = '{NS, route!~"probe|other"}'
CALLS = f"headrace_requests_total{OURS}"
LATENCY = f"headrace_request_seconds_bucket{OURS}"


def per_second(series: str) -> str:
    """Write how fast counters grow."""
    return f"rate({series}[$__rate_interval])"


def quantile(share: float, buckets: str, by: str = "le") -> str:
    """Write a quantile of what was observed lately."""
    return f"histogram_quantile({share}, sum by ({by}) ({per_second(buckets)}))"


def quantiles(buckets: str, *shares: float) -> Sequence[Line]:
    """Write a line for each of these quantiles."""
    return [Line(f"p{100 * share:g}", quantile(share, buckets)) for share in shares]


def mean(histogram: str) -> str:
    """Write the mean of what was observed lately."""
    return f"sum({per_second(f'{histogram}_sum{{NS}}')}) / sum({per_second(f'{histogram}_count{{NS}}')})"
