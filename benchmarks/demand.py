"""
Whether the demand metric tells the truth: a real server on one core, asked for known shares of what it can do.

The capacity is what a closed loop gets out of the same server just before and just after, on average. Between, calls
come in an open loop, and the offered-work term is read from the metrics page. Before all that two replicas share the
calls that one had.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Final

from benchmarks import machine, openloop, texts
from benchmarks.callers import ClosedLoop
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import Server, serving
from inference.demand import WINDOW_S

_SHARES: Final = (0.2, 0.5, 0.8, 1.2, 2.0)
_TEXTS: Final = 1024
_CALLERS: Final = 64
_FLAGS: Final = ("--latency-target-ms", "1000", "--auto-truncate")
_SETTLED: Final = 4.0  # windows until a reading is within 2 % of what it tends to
_READINGS: Final = 10  # taken over one window, and averaged
_PATIENCE: Final = ("x-request-timeout-ms: 2000",)
_SHARED: Final = 0.5  # of the capacity, by one replica and by two


@dataclass(frozen=True, slots=True)
class _Read:
    """Mean readings, and the calls a second that were offered and answered."""

    offered: float
    in_flight: float
    rate: float
    answers: float


def run(rounds: int, seconds: float) -> Findings:
    """Measure the capacity and every share in each round; a share takes five windows whatever `seconds` says."""
    core, callers_core = machine.two_cores()
    os.sched_setaffinity(0, {callers_core})
    mix = texts.passages(_TEXTS)
    values: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        values.setdefault(("two replicas", "sum / one's, a call"), []).append(_shared(core, callers_core, mix, number))
        with serving(core, *_FLAGS) as server:
            before = _capacity(server, mix, max(seconds, WINDOW_S))
            for share in _SHARES:
                read = asyncio.run(_offer([server], mix, share * before, seed=number))[0]
                after = _capacity(server, mix, max(seconds, WINDOW_S))  # anew: a machine's speed drifts
                told, before = 2 * read.rate / (before + after), after
                values.setdefault(("capacity", "texts per second"), []).append(after)
                sys.stderr.write(f"round {number + 1}: told {told:.3f}, offered term {read.offered:.3f}\n")
                values.setdefault((_name(share), "offered / capacity"), []).append(told)
                values.setdefault((_name(share), "offered-work term"), []).append(read.offered)
                values.setdefault((_name(share), "in-flight term"), []).append(read.in_flight)
                values.setdefault((_name(share), "answers per second"), []).append(read.answers)
    figures = [Figure(name, unit, tuple(found)) for (name, unit), found in values.items()]
    return Findings("demand", "cpu", figures, _goals(values), _conditions(rounds))


def _shared(core: int, other_core: int, mix: Sequence[str], seed: int) -> float:
    """What two replicas read of a call, as a share of what one reads; all of them are new."""
    with serving(core, *_FLAGS) as server:
        rate = _SHARED * _capacity(server, mix, WINDOW_S)
        [whole] = asyncio.run(_offer([server], mix, rate, seed=seed))
    with serving(core, *_FLAGS) as one, serving(other_core, *_FLAGS) as other:
        parts = asyncio.run(_offer([one, other], mix, rate / 2, seed=seed))
    per_call = sum(part.offered for part in parts) / sum(part.rate for part in parts)
    return per_call / (whole.offered / whole.rate)


def _capacity(server: Server, mix: Sequence[str], seconds: float) -> float:
    async def watch() -> float:
        window = await ClosedLoop(server.port, mix, _CALLERS, server.cpu_s).run(seconds)
        return window.answers / window.wall_s

    return asyncio.run(watch())


async def _offer(servers: Sequence[Server], mix: Sequence[str], rate: float, *, seed: int) -> list[_Read]:
    """Offer each server this rate until its readings have settled, then read them for a window."""
    return await asyncio.gather(*(_offer_one(server, mix, rate, seed + i) for i, server in enumerate(servers)))


async def _offer_one(server: Server, mix: Sequence[str], rate: float, seed: int) -> _Read:
    length_s = (_SETTLED + 1) * WINDOW_S
    calls = asyncio.create_task(
        openloop.offer(server.port, mix, rate, length_s, headers=_PATIENCE, seed=seed), name="calls"
    )
    await asyncio.sleep(_SETTLED * WINDOW_S)
    readings = []
    for _ in range(_READINGS):
        readings.append(await asyncio.to_thread(server.demand))
        await asyncio.sleep(WINDOW_S / _READINGS / 2)
    seen = await calls
    offered, in_flight = (mean(values) for values in zip(*readings, strict=True))
    rate, answers = sum(seen.statuses.values()) / length_s, seen.statuses.get(200, 0) / length_s
    return _Read(offered, in_flight, rate, answers)


def _goals(values: dict[tuple[str, str], list[float]]) -> list[Goal]:
    goals = []
    for share in _SHARES:
        told, term = values[_name(share), "offered / capacity"], values[_name(share), "offered-work term"]
        error = median(abs(a - b) for a, b in zip(told, term, strict=True))
        goals.append(Goal(f"{_name(share)}: offered-work term off by", error, 0.1, at_most=True))
    apart = median(abs(ratio - 1.0) for ratio in values["two replicas", "sum / one's, a call"])
    return [*goals, Goal("sum over two replicas / the whole, off by", apart, 0.1, at_most=True)]


def _name(share: float) -> str:
    return f"load {share:.0%}"


def _conditions(rounds: int) -> dict[str, object]:
    return {
        "model": "all-MiniLM-L6-v2, float32",
        "rounds": rounds,
        "server": " ".join(_FLAGS),
        "calls": f"Poisson, {_PATIENCE[0]}",
        "window, s": WINDOW_S,
        "capacity": f"{_CALLERS} callers in a closed loop, by the wall's clock, before and after each load",
        "two replicas": "the second one shares its core with the callers",
    }
