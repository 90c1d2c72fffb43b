"""
How much a core serves inside a deadline, in an open loop, beside plain FastAPI and infinity in the same run.

The highest rate with p99 <= 250 ms and 99.9 % answered, latency from the intended moment; what is left of the highest
goodput at twice and three times that rate; and what a call costs in a flood at ten times the capacity.

    python -m benchmarks goodput --rounds 3 --seconds 10
"""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import machine, openloop, rates, texts
from benchmarks.openloop import Seen
from benchmarks.peers import servers
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import Process, serving
from inference.config import default_cache_dir
from inference.fetch import DEFAULT_MODEL, fetch_package

_TARGET_S: Final = 0.25
_ANSWERED: Final = 0.999
_TEXTS: Final = 2048
_FIRST_RATE: Final = 8.0
_ROUGHLY_S: Final = 3.0  # of a try while nothing is known of a server yet
_FLOOD: Final = 10
_HEADRACE: Final = "headrace"
_DEADLINE: Final = (f"x-request-timeout-ms: {round(_TARGET_S * 1000)}",)
_GOODPUT: Final = "answers inside 250 ms per second"
_FLOOD_MS: Final = ("in the flood", "loop thread's CPU ms a call")


def run(rounds: int, seconds: float) -> Findings:
    """Search each server's rate in every round, then push Headrace over its own."""
    core, callers_core = machine.two_cores()
    os.sched_setaffinity(0, {callers_core})
    mix = texts.passages(_TEXTS)
    model = fetch_package(DEFAULT_MODEL, default_cache_dir())
    contenders = _contenders(core, model)
    highest: dict[str, list[float]] = {name: [] for name in contenders}
    over: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for name, started in contenders.items():
            with started() as server:
                offers = _Offers(server, mix, seconds, seed=number)
                highest[name].append(offers.highest_rate())
                sys.stderr.write(f"round {number + 1} of {rounds}: {name} {highest[name][-1]:.1f}/s\n")
                if name == _HEADRACE:
                    for key, value in _overload(offers, highest[name][-1]).items():
                        over.setdefault(key, []).append(value)
    figures = [
        Figure(f"{name}, highest rate inside 250 ms", "calls per second", tuple(highest[name])) for name in highest
    ]
    figures += [Figure(f"headrace, {key}", unit, tuple(over[key, unit])) for key, unit in over]
    return Findings("goodput", "cpu", figures, _goals(highest, over), _conditions(rounds, seconds))


class _Offers:
    """What was offered to one server in one round; each offer brings other arrivals."""

    def __init__(self, server: Process, mix: Sequence[str], seconds: float, seed: int) -> None:
        self.server = server
        self.seconds = seconds
        self.best_goodput = 0.0  # at any rate
        self._mix = mix
        self._seed = 1000 * seed

    def highest_rate(self) -> float:
        first = rates.about(lambda rate: _is_met(self.offer(rate, _ROUGHLY_S)), _FIRST_RATE)
        self.best_goodput = 0.0  # what was seen in short tries is rough
        return rates.highest_rate(lambda rate: _is_met(self.offer(rate, self.seconds)), first)

    def offer(self, rate: float, seconds: float, headers: Sequence[str] = ()) -> Seen:
        self._seed += 1
        offered = openloop.offer(self.server.port, self._mix, rate, seconds, headers=headers, seed=self._seed)
        seen = asyncio.run(offered)
        self.best_goodput = max(self.best_goodput, seen.goodput(_TARGET_S))
        return seen


def _is_met(seen: Seen) -> bool:
    return seen.p99_s() <= _TARGET_S and seen.answered >= _ANSWERED


def _contenders(core: int, model: Path) -> dict[str, Callable[[], AbstractContextManager[Process]]]:
    return {
        _HEADRACE: lambda: serving(core, "--latency-target-ms", str(_TARGET_S * 1000), "--auto-truncate"),
        "plain FastAPI": lambda: servers.plain(core, model),
        "infinity": lambda: servers.infinity(core, model),
    }


def _overload(offers: _Offers, rate: float) -> dict[tuple[str, str], float]:
    """Offer the rate and its multiples with a deadline on every call, then a flood."""
    found: dict[tuple[str, str], float] = {}
    for factor in (1, 2, 3):
        seen = offers.offer(factor * rate, offers.seconds, _DEADLINE)
        found[f"goodput at {factor} x that rate", _GOODPUT] = seen.goodput(_TARGET_S)
    found["highest goodput at any rate", _GOODPUT] = offers.best_goodput
    before_s = offers.server.loop_cpu_s()
    flood = offers.offer(_FLOOD * found["highest goodput at any rate", _GOODPUT], offers.seconds / 2, _DEADLINE)
    spent_s = offers.server.loop_cpu_s() - before_s
    found["in the flood", _GOODPUT] = flood.goodput(_TARGET_S)
    found["in the flood", "calls per second"] = flood.calls / flood.seconds
    found["in the flood", "refused, share"] = flood.statuses.get(429, 0) / flood.calls
    found["in the flood", "connections opened a call"] = flood.connections / flood.calls
    found["in the flood", "the generator's greatest delay, s"] = flood.latest_s
    found[_FLOOD_MS] = 1000 * spent_s / flood.calls
    return found


def _goals(highest: dict[str, list[float]], over: dict[tuple[str, str], list[float]]) -> list[Goal]:
    best_peer = max(median(found) for name, found in highest.items() if name != _HEADRACE)
    most = over["highest goodput at any rate", _GOODPUT]

    def kept(factor: int) -> Goal:
        goodput = over[f"goodput at {factor} x that rate", _GOODPUT]
        ratio = median(mine / best for mine, best in zip(goodput, most, strict=True))
        return Goal(f"goodput at {factor} x that rate / the highest of its round", ratio, 0.9)

    return [
        Goal("loop thread's CPU ms a call in a flood", median(over[_FLOOD_MS]), 0.3, at_most=True),
        Goal("headrace's rate / the best peer's", median(highest[_HEADRACE]) / best_peer, 1.3),
        kept(2),
        kept(3),
    ]


def _conditions(rounds: int, seconds: float) -> dict[str, object]:
    return {
        "model": "all-MiniLM-L6-v2, float32",
        "rounds": rounds,
        "seconds a rate": seconds,
        "arrivals": "Poisson, latency from the intended moment",
        "rates": f"by steps of {rates.STEP}, until two in a row are each missed in two of three tries",
        "flood": f"{_FLOOD} x the highest goodput, for half as long, each call with a deadline of 250 ms",
        "threads": 1,
    }
