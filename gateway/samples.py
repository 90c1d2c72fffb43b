"""
What several processes count, as one page: read in each of them, carried as plain values, added up in their parent.

Counters and histograms are added, and what a process that ended had told stays in the sum, which never falls. Of gauges
the largest is told, but for those that count what is there now.
"""

from collections.abc import Callable, Iterable, Iterator

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_ADDED_GAUGES = frozenset({"headrace_in_flight", "headrace_tasks"})

Labels = tuple[tuple[str, str], ...]


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric of one process: each sample by its name and its labels."""

    name: str
    documentation: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


def read(registry: CollectorRegistry) -> list[Family]:
    """Return all that a process counts."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [(each.name, each.labels, each.value) for each in metric.samples],
        )
        for metric in registry.collect()
    ]


def lasting(families: Iterable[Family]) -> list[Family]:
    """Return what stays true of a process that has ended: what it counted, not how it was."""
    return [family for family in families if family.kind != "gauge"]


def total(pages: Iterable[Iterable[Family]]) -> list[Family]:
    """Return what all processes count, as one page."""
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for family in (family for page in pages for family in page):
        families.setdefault(family.name, family)
        known = values.setdefault(family.name, {})
        for name, labels, value in family.samples:
            key = (name, tuple(labels.items()))
            known[key] = _joined(family, name)(known[key], value) if key in known else value
    return [
        Family(name, each.documentation, each.kind, [(n, dict(labels), v) for (n, labels), v in values[name].items()])
        for name, each in families.items()
    ]


class Pages(Collector):
    """A collector of what all processes count; `gather` brings their pages, on the thread of whoever scrapes."""

    def __init__(self, gather: Callable[[], Iterable[Iterable[Family]]]) -> None:
        """Take how the pages are had."""
        self._gather = gather

    def collect(self) -> Iterator[Metric]:
        """Ask every process, and add up."""
        for family in total(self._gather()):
            metric = Metric(family.name, family.documentation, family.kind)
            metric.samples = [Sample(name, labels, value) for name, labels, value in family.samples]
            yield metric

    def describe(self) -> list[Metric]:
        """Nothing: to be registered is no reason to ask."""
        return []


def _joined(family: Family, sample_name: str) -> Callable[[float, float], float]:
    if sample_name.endswith("_created"):
        return min
    if family.kind == "gauge" and family.name not in _ADDED_GAUGES:
        return max
    return float.__add__
