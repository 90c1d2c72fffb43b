"""
What is promised, read from TOML: a table a route, and `[default]` for those without one.

    [default]
    p99_ms = 250
    error_rate = 0.001

    ["/v1/rerank"]
    p50_ms = 80
    p99_ms = 500
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Final

PERCENTILES: Final = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "p999_ms": 99.9}
_DEFAULT: Final = "default"


class BadSlo(Exception):
    """An SLO file that cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Objective:
    """
    What a route promises. A percentile that is not given is not judged; failures and refusals are then not allowed.

    `goodput` is in answers inside `deadline_ms` per second, at least; the deadline is `p99_ms` unless it is given.
    """

    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    error_rate: float = 0.0  # of all arrivals, at most
    shed_rate: float = 0.0
    goodput: float | None = None
    deadline_ms: float | None = None

    @property
    def percentiles(self) -> dict[str, tuple[float, float]]:
        """Those that are given: name -> percentile, bound in milliseconds."""
        given = {name: (percent, getattr(self, name)) for name, percent in PERCENTILES.items()}
        return {name: (percent, bound) for name, (percent, bound) in given.items() if bound is not None}

    @property
    def in_time_ms(self) -> float | None:
        """What goodput counts as in time."""
        return self.p99_ms if self.deadline_ms is None else self.deadline_ms


@dataclass(frozen=True, slots=True)
class Slo:
    """The objectives of routes."""

    routes: Mapping[str, Objective]

    def of(self, route: str) -> Objective | None:
        """Find a route's objective."""
        return self.routes.get(route, self.routes.get(_DEFAULT))


def read_slo(text: str) -> Slo:
    """Read the file's text; raises BadSlo."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise BadSlo(str(err)) from None
    if not tables:
        raise BadSlo("promises nothing: it needs [default] or a table a route")
    return Slo({route: _objective(route, table) for route, table in tables.items()})


def _objective(route: str, table: Any) -> Objective:
    if route != _DEFAULT and not route.startswith("/"):
        raise BadSlo(f'[{route}] is neither [default] nor a route in quotes, as in ["/v1/embeddings"]')
    if not isinstance(table, dict):
        raise BadSlo(f"{route} is not a table")
    names = [each.name for each in fields(Objective)]
    for key, value in table.items():
        if key not in names:
            raise BadSlo(f"[{route}] {key}: there are {', '.join(names)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
            raise BadSlo(f"[{route}] {key}: {value!r} is not a number from 0")
        if key.endswith("_rate") and value > 1:
            raise BadSlo(f"[{route}] {key}: {value} is not a share from 0 to 1")
    objective = Objective(**table)
    if objective.goodput is not None and objective.in_time_ms is None:
        raise BadSlo(f"[{route}] goodput needs deadline_ms, or p99_ms")
    return objective
