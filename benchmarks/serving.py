"""
What serving costs beside the model: under load against the best offline job, alone against a direct call; and where
the time goes.

The server, and each alternative, has one core and one thread; the callers have the other core. Figures are
per CPU-second of the process that is measured, since other work on the machine stretches the wall's. `serving-bfloat16`
is the same in those numbers, on both sides.
"""

import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from benchmarks import callers, machine, texts
from benchmarks.alternatives import Alternatives, Dtype, Vectors, Way
from benchmarks.callers import ClosedLoop, WrongAnswer
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import Server, serving

_TEXTS = 256
_SINGLE_TEXTS = 200
_TURN = 20  # texts of one caller before the next way has its turn: a machine's speed changes within seconds
_CHECKED_TEXTS = 128
_CALLERS = 64
_FLAGS = ("--latency-target-ms", "1000")
_MIN_COSINE: dict[Dtype, float] = {"float32": 0.99999, "bfloat16": 0.999}  # with plain Transformers in float32
_OFFLINE: tuple[tuple[Way, int], ...] = (
    ("one by one", 0),
    *(("sorted", budget) for budget in (512, 1024, 2048)),
    *(("packed", budget) for budget in (512, 1024, 2048)),
)
_DIRECT: dict[Way, str] = {"one by one": "direct, plain Transformers", "packed": "direct, own encoder"}
_SERVED = f"served, {_CALLERS} callers"
_SERVED_ONE = "served, 1 caller"


@dataclass(slots=True)
class _Notes:
    """Every round's values, by figure and unit."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, unit: str, value: float) -> None:
        self.values[name, unit].append(value)

    def median(self, name: str, unit: str) -> float:
        return median(self.values[name, unit])

    def ratio(self, name: str, other: str, unit: str) -> float:
        """The median of the rounds' ratios."""
        return median(a / b for a, b in zip(self.values[name, unit], self.values[other, unit], strict=True))

    def figures(self) -> list[Figure]:
        return [Figure(name, unit, tuple(rounds)) for (name, unit), rounds in self.values.items()]


def run(rounds: int, seconds: float) -> Findings:
    """Measure all of it in interleaved rounds."""
    return _run(rounds, seconds, "float32")


def run_bfloat16(rounds: int, seconds: float) -> Findings:
    """Measure all of it in bfloat16."""
    return _run(rounds, seconds, "bfloat16")


def _run(rounds: int, seconds: float, dtype: Dtype) -> Findings:
    core, callers_core = machine.two_cores()
    os.sched_setaffinity(0, {callers_core})
    mix = texts.passages(_TEXTS)
    expected = _expected(core, mix[:_CHECKED_TEXTS])
    alternatives = Alternatives(core, dtype)
    notes = _Notes()
    try:
        with serving(core, *_FLAGS, "--dtype", dtype) as server:
            cosine = _lowest_cosine(server, mix[:_CHECKED_TEXTS], expected, _MIN_COSINE[dtype])
            for number in range(rounds):
                sys.stderr.write(f"round {number + 1} of {rounds}\n")
                notes.add("load of the machine before", "1 minute", os.getloadavg()[0])
                _served_round(notes, server, mix, seconds)
                _offline_round(notes, alternatives, mix, seconds)
                _single_round(notes, server, alternatives, mix[:_SINGLE_TEXTS])
    finally:
        alternatives.close()
    name = "serving" if dtype == "float32" else f"serving-{dtype}"
    goals = _goals(notes, cosine, _MIN_COSINE[dtype])
    return Findings(name, "cpu", notes.figures(), goals, _conditions(rounds, seconds, dtype))


def _expected(core: int, mix: Sequence[str]) -> Vectors:
    plain = Alternatives(core)
    try:
        return plain.vectors(mix)
    finally:
        plain.close()


def _lowest_cosine(server: Server, mix: Sequence[str], expected: Vectors, least: float) -> float:
    """Compare served answers with plain Transformers; raises WrongAnswer: the speed of wrong answers is nothing."""
    served = asyncio.run(callers.vectors(server.port, mix, _CALLERS))
    cosine = float(np.einsum("ij,ij->i", served.astype(np.float64), expected).min())
    if cosine < least:
        raise WrongAnswer(f"an answer has cosine {cosine:.6f} with plain Transformers")
    return cosine


def _offline_round(notes: _Notes, alternatives: Alternatives, mix: Sequence[str], seconds: float) -> None:
    for way, budget in _OFFLINE:
        spent = alternatives.offline(way, budget, mix, seconds)
        notes.add(_offline_name(way, budget), "texts per CPU-second", spent.texts / spent.cpu_s)
        notes.add(_offline_name(way, budget), "texts per second", spent.texts / spent.wall_s)


def _served_round(notes: _Notes, server: Server, mix: Sequence[str], seconds: float) -> None:
    async def watch() -> callers.Window:
        return await ClosedLoop(server.port, mix, _CALLERS, server.cpu_s).run(seconds)

    before, loop_s, all_s = server.batches(), server.loop_cpu_s(), server.cpu_s()
    window = asyncio.run(watch())
    batches = server.batches() - before
    loop_share = (server.loop_cpu_s() - loop_s) / (server.cpu_s() - all_s)
    notes.add(_SERVED, "texts per CPU-second", window.answers / window.server_cpu_s)
    notes.add(_SERVED, "texts per second", window.answers / window.wall_s)
    notes.add(_SERVED, "p50 ms", 1000 * window.latency_s(50))
    notes.add(_SERVED, "p99 ms", 1000 * window.latency_s(99))
    notes.add(_SERVED, "texts a batch", batches.sequences / batches.count)
    notes.add(_SERVED, "tokens a batch", batches.tokens / batches.count)
    text_ms = 1000 * window.server_cpu_s / window.answers
    notes.add(_SERVED, "loop thread's CPU ms a text", loop_share * text_ms)
    notes.add(_SERVED, "other threads' CPU ms a text", (1 - loop_share) * text_ms)
    notes.add(_SERVED, "server's CPU share", window.server_cpu_s / window.wall_s)
    notes.add(_SERVED, "callers' CPU share", window.callers_cpu_s / window.wall_s)


def _single_round(notes: _Notes, server: Server, alternatives: Alternatives, mix: Sequence[str]) -> None:
    took: dict[str, list[float]] = defaultdict(list)  # milliseconds
    for start in range(0, len(mix), _TURN):
        turn = mix[start : start + _TURN]
        for way, name in _DIRECT.items():
            took[name] += [1000 * spent_s for spent_s in alternatives.latencies(way, turn)]
        for spent in asyncio.run(callers.latencies(server.port, turn)):
            for part, spent_ms in spent.items():
                took[_SERVED_ONE if part == "all" else f"{_SERVED_ONE}, {part}"].append(spent_ms)
    for name, latencies in took.items():
        notes.add(name, "p50 ms", median(latencies))
        notes.add(name, "mean ms", float(np.mean(latencies)))


def _goals(notes: _Notes, cosine: float, least: float) -> list[Goal]:
    """Ratios within a round, since rounds differ; the alternative is the one with the best median."""
    per_cpu_s = "texts per CPU-second"
    best = max((_offline_name(way, budget) for way, budget in _OFFLINE), key=lambda name: notes.median(name, per_cpu_s))
    fastest = min(_DIRECT.values(), key=lambda name: notes.median(name, "p50 ms"))
    throughput = notes.ratio(_SERVED, best, per_cpu_s)
    latency = notes.ratio(_SERVED_ONE, fastest, "p50 ms")
    return [
        Goal("lowest cosine with plain Transformers in float32", cosine, least),
        Goal(f"{_SERVED} / {best}, {per_cpu_s}", throughput, 0.95),
        Goal(f"{_SERVED_ONE} / {fastest}, p50", latency, 1.1, at_most=True),
    ]


def _conditions(rounds: int, seconds: float, dtype: Dtype) -> dict[str, object]:
    return {
        "model": f"all-MiniLM-L6-v2, {dtype}",
        "rounds": rounds,
        "at least seconds a measurement": seconds,
        "texts": _TEXTS,
        "texts of 1 caller": _SINGLE_TEXTS,
        "threads": 1,
        "server": f"{' '.join(_FLAGS)}: {_CALLERS} callers on one core wait about a second, whatever the batch",
    }


def _offline_name(way: Way, budget: int) -> str:
    return f"offline, {way}" + (f", budget {budget}" if budget else "")
