"""
How much a core serves inside a deadline, in an open loop, beside plain FastAPI and infinity in the same run.

The highest rate with p99 <= 250 ms and 99.9 % answered, latency from the intended moment; what is left of it
at twice and three times that rate; and what a refusal costs in a flood at ten times the capacity.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import machine, openloop, texts
from benchmarks.openloop import Seen
from benchmarks.peers import servers
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import Process, serving
from inference.config import default_cache_dir
from inference.fetch import DEFAULT_MODEL, fetch_package

_TARGET_S: Final = 0.25
_ANSWERED: Final = 0.999
_TEXTS: Final = 2048
_STEP: Final = 1.12  # between the rates that are tried
_FIRST_RATE: Final = 8.0
_FLOOD: Final = 10
_HEADRACE: Final = "headrace"
_DEADLINE: Final = (f"x-request-timeout-ms: {round(_TARGET_S * 1000)}",)


def run(rounds: int, seconds: float) -> Findings:
    """Search each server's rate in every round, then push Headrace over its own."""
    core, callers_core = machine.two_cores()
    os.sched_setaffinity(0, {callers_core})
    mix = texts.passages(_TEXTS)
    model = fetch_package(DEFAULT_MODEL, default_cache_dir())
    contenders = _contenders(core, model)
    highest: dict[str, list[float]] = {name: [] for name in contenders}
    figures: list[Figure] = []
    over: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for name, started in contenders.items():
            with started() as server:
                found = _highest_rate(server, mix, seconds, seed=number)
                sys.stderr.write(f"round {number + 1} of {rounds}: {name} {found:.1f}/s\n")
                highest[name].append(found)
                if name == _HEADRACE:
                    for key, value in _overload(server, mix, found, seconds).items():
                        over.setdefault(key, []).append(value)
    figures += [
        Figure(f"{name}, highest rate inside 250 ms", "calls per second", tuple(highest[name])) for name in highest
    ]
    figures += [Figure(f"headrace, {key}", unit, tuple(over[key, unit])) for key, unit in over]
    return Findings("goodput", "cpu", figures, _goals(highest, over), _conditions(rounds, seconds))


def _contenders(core: int, model: Path) -> dict[str, Callable[[], AbstractContextManager[Process]]]:
    return {
        _HEADRACE: lambda: serving(core, "--latency-target-ms", str(_TARGET_S * 1000), "--auto-truncate"),
        "plain FastAPI": lambda: servers.plain(core, model),
        "infinity": lambda: servers.infinity(core, model),
    }


def _highest_rate(server: Process, mix: Sequence[str], seconds: float, seed: int) -> float:
    """Raise the rate by steps until it is missed twice; returns the highest that was met."""
    _offer(server, mix, _FIRST_RATE, 3.0, seed=seed)
    best, rate, missed = 0.0, _FIRST_RATE, 0
    while missed < 2:
        seen = _offer(server, mix, rate, seconds, seed=seed)
        if seen.p99_s() <= _TARGET_S and seen.answered >= _ANSWERED:
            best, missed = rate, 0
        else:
            missed += 1
        rate *= _STEP
    return best


def _overload(server: Process, mix: Sequence[str], rate: float, seconds: float) -> dict[tuple[str, str], float]:
    """Offer the rate and its multiples with a deadline on every call."""
    found: dict[tuple[str, str], float] = {}
    for factor in (1, 2, 3):
        seen = _offer(server, mix, factor * rate, seconds, seed=7, headers=_DEADLINE)
        found[f"goodput at {factor} x that rate", "answers inside 250 ms per second"] = seen.goodput(_TARGET_S)
    before_s = server.loop_cpu_s()
    flood = _offer(server, mix, _FLOOD * rate, seconds / 2, seed=8, headers=_DEADLINE)
    calls = max(1, sum(flood.statuses.values()))
    found["goodput in the flood", "answers inside 250 ms per second"] = flood.goodput(_TARGET_S)
    found["refused in the flood", "share"] = flood.statuses.get(429, 0) / calls
    found["flood", "loop thread's CPU ms a call"] = 1000 * (server.loop_cpu_s() - before_s) / calls
    return found


def _offer(
    server: Process, mix: Sequence[str], rate: float, seconds: float, *, seed: int, headers: Sequence[str] = ()
) -> Seen:
    return asyncio.run(openloop.offer(server.port, mix, rate, seconds, headers=headers, seed=seed))


def _goals(highest: dict[str, list[float]], over: dict[tuple[str, str], list[float]]) -> list[Goal]:
    good = {key: median(values) for (key, unit), values in over.items() if unit.startswith("answers")}
    most = max(good.values())
    best_peer = max(median(rates) for name, rates in highest.items() if name != _HEADRACE)
    refusal_ms = median(over["flood", "loop thread's CPU ms a call"])
    return [
        Goal("loop thread's CPU ms a call in a flood", refusal_ms, 0.3, at_most=True),
        Goal("headrace's rate / the best peer's", median(highest[_HEADRACE]) / best_peer, 1.3),
        Goal("goodput at 2 x that rate / the highest goodput", good["goodput at 2 x that rate"] / most, 0.9),
        Goal("goodput at 3 x that rate / the highest goodput", good["goodput at 3 x that rate"] / most, 0.9),
    ]


def _conditions(rounds: int, seconds: float) -> dict[str, object]:
    return {
        "model": "all-MiniLM-L6-v2, float32",
        "rounds": rounds,
        "seconds a rate": seconds,
        "arrivals": "Poisson, latency from the intended moment",
        "rates": f"from {_FIRST_RATE} by steps of {_STEP}",
        "threads": 1,
    }
