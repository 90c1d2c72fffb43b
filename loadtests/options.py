"""What a run is told on Locust's command line, or in its web page: read, checked, and made a plan of."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final

from loadtests.arrivals import KINDS, BadTrace, read_trace
from loadtests.callers import ANYBODY, BadCallers, Caller, read_callers
from loadtests.plan import Plan
from loadtests.shapes import SHAPES
from loadtests.slo import BadSlo, Slo, read_slo

_LEAST_WARM_UP_S: Final = 1.0


class BadOption(Exception):
    """Something a run cannot be made of; the message says what."""


@dataclass(frozen=True, slots=True)
class Told:
    """All that was told. `closed`: callers wait for their answers, as Locust's own users do."""

    plan: Plan
    slo: Slo | None
    callers: tuple[Caller, ...]
    model: str
    fields: Mapping[str, Any]  # added to every body
    closed: bool
    longest_words: int
    timeout_s: float
    most_in_flight: int  # a process
    report: Path | None


def add_options(parser: ArgumentParser) -> None:
    """Add them to Locust's own."""
    group = parser.add_argument_group("Load", "what is offered, and what is promised")
    add = group.add_argument
    add("--rate", type=float, default=10.0, help="calls per second, the highest of the shape [10]")
    add("--duration", type=float, default=60.0, help="seconds that are judged [60]")
    add("--warm-up", type=float, default=-1.0, help="seconds before them [a tenth of them, 1 or more]")
    add("--slo", default="", help="what is promised: a TOML file; without it nothing is judged")
    add("--shape", choices=list(SHAPES), default="steady", help="how the rate changes [steady]")
    add("--arrivals", choices=list(KINDS), default="poisson", help="when calls come at that rate [poisson]")
    add("--trace", default="", help="replay these moments instead: seconds, one a line")
    add("--callers", default="", help="who calls: a TOML file with names, shares, keys, priorities")
    add("--model", default="", help="the model's name [the server's own]")
    add("--fields", default="{}", help="JSON that is added to every body")
    add("--longest", type=int, default=50, help="words of the longest text; the median is 20 [50]")
    add("--timeout", type=float, default=30.0, help="seconds that a caller waits [30]")
    add("--most-in-flight", type=int, default=2000, help="calls at once, a process; more are dropped [2000]")
    add("--seed", type=int, default=0, help="of arrivals and texts [0]")
    add("--closed", action="store_true", help="each of --users waits for its answer before it calls again")
    add("--report", default="", help="folder for report.json, report.html and junit.xml")


def read_options(told: Namespace) -> Told:
    """Check them, and read the files that they name; raises BadOption."""
    warm_up_s = max(_LEAST_WARM_UP_S, told.duration / 10) if told.warm_up < 0 else told.warm_up
    _within("--rate", told.rate, 0.0 if told.closed else 1e-3, 1e6)
    _within("--duration", told.duration, 0.1, 1e7)
    _within("--warm-up", warm_up_s, 0.0, 1e7)
    _within("--timeout", told.timeout, 1e-3, 3600.0)
    _within("--longest", told.longest, 1, inf)
    _within("--most-in-flight", told.most_in_flight, 1, inf)
    if told.closed and (told.shape != "steady" or told.trace):
        raise BadOption("--closed: callers who wait follow neither a shape nor a trace")
    trace = _read("--trace", told.trace, read_trace)
    return Told(
        Plan(told.rate, told.duration, warm_up_s, SHAPES[told.shape], told.arrivals, told.seed, tuple(trace or ())),
        _read("--slo", told.slo, read_slo),
        _read("--callers", told.callers, read_callers) or ANYBODY,
        told.model,
        _fields(told.fields),
        told.closed,
        told.longest,
        told.timeout,
        told.most_in_flight,
        Path(told.report) if told.report else None,
    )


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise BadOption(f"{name}: {value:g} is not from {least:g} to {most:g}")


def _read(name: str, path: str, read: Any) -> Any:
    """Read a file, if one is named; returns None otherwise."""
    if not path:
        return None
    try:
        return read(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as err:
        raise BadOption(f"{name}: {path} cannot be read: {err}") from None
    except (BadTrace, BadSlo, BadCallers) as err:
        raise BadOption(f"{name}: {path}: {err}") from None


def _fields(text: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as err:
        raise BadOption(f"--fields: {err}") from None
    if not isinstance(fields, dict):
        raise BadOption("--fields: is not a JSON object")
    return fields
