"""
Autoscaling, simulated: the demand ratio beside the metrics that fleets are scaled on elsewhere, on six traces.

The autoscaler's arithmetic, the meter and the capacity are the product's own (gateway/hpa.py, fleet.py,
inference/demand.py); pods, traces and the other metrics are simulated. Every metric has the same autoscaler, and each
other one's target is tuned so that it spends the GPU-hours of the demand ratio on that very trace: matched.py.
"""

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from benchmarks.autoscale.gauges import BOUNDED, DEMAND, OTHERS, Metric
from benchmarks.autoscale.matched import Spent, matched
from benchmarks.plot import Panel, draw
from benchmarks.policy.curves import CURVES
from benchmarks.results import Figure, Findings, Goal
from gateway.fleet import Outcome, Replica, Scaling, foresight_gpu_hours, simulate
from gateway.hpa import Hpa
from gateway.plan import SURGE

_TARGET: Final = 0.7
_STARTS_S: Final = (30, 60, 180)
_LENGTH_S: Final = 2400
_MOST: Final = 20
_TOKENS: Final = 51  # a text, the mean of the benchmarks' mix
_LIGHT, _HEAVY, _BEYOND, _TRIES = 0.05, 0.95, 20.0, 10  # targets from a load of 5 % to 20 x what 95 % reads
_AHEAD: Final = 0.0001  # of the share inside the target: less is a tie
_CALM: Final = ("steady", "ramp", "day")
_SUDDEN: Final = ("step", "bursts", "flash")
_CALM_START_S: Final = 60
_FOLDER: Final = Path(__file__).parent.parent / "results"
TRACES: Final[Mapping[str, Callable[[int], float]]] = {  # shares of one replica's capacity, by the second
    "steady": lambda t: 3.0,
    "ramp": lambda t: 1.0 + 5.0 * min(1.0, t / 1200),
    "day": lambda t: 3.0 + 2.0 * math.sin(2 * math.pi * t / 2400),
    "step": lambda t: 1.0 if t < 600 else 5.0,
    "bursts": lambda t: 6.0 if t % 240 < 30 else 2.0,
    "flash": lambda t: 1.0 if t < 900 or t >= 1500 else min(8.0, 1.0 + 0.7 * (t - 900)),
}


def _replica(number: int, target_s: float) -> Replica:
    """What a curve of benchmarks/policy does with texts of the mean length, in batches of half the target."""
    curve = CURVES[number]
    text_s = curve.token_s * _TOKENS + curve.square_s * _TOKENS * _TOKENS
    within = (max(target_s / 2, 8 * curve.base_s) - curve.base_s) / text_s
    return Replica(curve.base_s, text_s, int(min(within, curve.budget / _TOKENS)), target_s, 10 * target_s)


FAST: Final = _replica(3, 0.1)  # assumed, not measured: no GPU was there
SLOW: Final = _replica(1, 1.0)  # measured, on one core

REPLICAS: Final[Mapping[str, Replica]] = {"fast": FAST, "slow": SLOW}


@dataclass(frozen=True, slots=True)
class Case:
    """What is simulated: a trace on replicas that start so fast."""

    replica: str  # `fast` or `slow`
    trace: str
    start_s: int

    def scaled(self, metric: Metric, target: float) -> Outcome:
        """Run it from as many replicas as foresight would have."""
        replica = REPLICAS[self.replica]
        rates = rates_of(self.trace, replica)
        first = math.ceil(rates[0] / replica.capacity / _TARGET - 1e-9)
        hpa = Hpa(metric.kind, target, 1, _MOST, SURGE)
        return simulate(replica, rates, Scaling(hpa, metric.gauge, self.start_s), first)

    def own(self) -> Outcome:
        """Run it on the demand ratio."""
        return self.scaled(DEMAND, _TARGET)

    def bounded(self) -> Outcome:
        """Run it on a metric that cannot reach its target."""
        return self.scaled(BOUNDED, 2.0)

    def foresight_gpu_hours(self) -> float:
        """What perfect foresight spends at the same target."""
        replica = REPLICAS[self.replica]
        return foresight_gpu_hours(replica, rates_of(self.trace, replica), _TARGET)


@dataclass(frozen=True, slots=True)
class Rival:
    """Another metric on a case, for the GPU-hours that the demand ratio spent on it."""

    case: Case
    metric: str
    gpu_hours: float

    def matched(self) -> Spent:
        """Tune its target to those hours."""
        metric, replica = OTHERS[self.metric], REPLICAS[self.case.replica]
        low = max(0.001, metric.at(replica, _LIGHT))
        step = (_BEYOND * metric.at(replica, _HEAVY) / low) ** (1 / (_TRIES - 1))
        return matched(self._spend, [low * step**number for number in range(_TRIES)], self.gpu_hours)

    def _spend(self, target: float) -> Spent:
        outcome = self.case.scaled(OTHERS[self.metric], target)
        return Spent(target, outcome.gpu_hours, outcome.inside, outcome.turns)


def rates_of(trace: str, replica: Replica) -> Sequence[float]:
    """A trace in texts a second, a value a second."""
    return [TRACES[trace](second) * replica.capacity for second in range(_LENGTH_S)]


def run(rounds: int, seconds: float) -> Findings:
    """Simulate every case once: neither rounds nor seconds change what is simulated."""
    cases = [Case(name, trace, start_s) for name in REPLICAS for trace in TRACES for start_s in _STARTS_S]
    bounded = [Case("fast", trace, 60) for trace in TRACES]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        own = dict(zip(cases, pool.map(Case.own, cases), strict=True))
        grown = max(outcome.most - outcome.replicas[0] for outcome in pool.map(Case.bounded, bounded))
        rivals = [
            Rival(case, metric, outcome.gpu_hours)
            for case, outcome in own.items()
            for metric in OTHERS
            if case.replica == "fast" and case.trace in _SUDDEN
        ]
        beside = dict(zip(rivals, pool.map(Rival.matched, rivals), strict=True))
    _plot(own, beside)
    figures = [figure for case, outcome in own.items() for figure in _figures(case, outcome)]
    figures += [figure for rival, spent in beside.items() for figure in _beside(rival, spent)]
    return Findings("autoscale", "simulated", figures, _goals(own, beside, grown), _conditions())


Own = Mapping[Case, Outcome]
Beside = Mapping[Rival, Spent]


def _figures(case: Case, outcome: Outcome) -> list[Figure]:
    name = f"{_name(case)}, demand ratio"
    return [
        Figure(name, "inside the target, share", (outcome.inside,)),
        Figure(name, "GPU-hours", (outcome.gpu_hours,)),
        Figure(name, "GPU-hours / foresight's", (outcome.gpu_hours / case.foresight_gpu_hours(),)),
        Figure(name, "changes of direction", (float(outcome.turns),)),
        Figure(name, "most replicas", (float(outcome.most),)),
    ]


def _beside(rival: Rival, spent: Spent) -> list[Figure]:
    name = f"{_name(rival.case)}, {rival.metric} at equal GPU-hours"
    return [
        Figure(name, "inside the target, share", (spent.inside,)),
        Figure(name, "GPU-hours / the demand ratio's", (spent.gpu_hours / rival.gpu_hours,)),
        Figure(name, "its target", (spent.target,)),
        Figure(name, "changes of direction", (float(spent.turns),)),
    ]


def _name(case: Case) -> str:
    return f"{case.replica}, {case.trace}, start {case.start_s} s"


def _goals(own: Own, beside: Beside, grown: int) -> list[Goal]:
    goals = []
    for trace in _CALM:
        case, name = Case("fast", trace, _CALM_START_S), f"{trace}, start {_CALM_START_S} s"
        ratio = own[case].gpu_hours / case.foresight_gpu_hours()
        goals += [
            Goal(f"{name}: inside the target", own[case].inside, 0.995),
            Goal(f"{name}: GPU-hours / foresight's", ratio, 1.15, at_most=True),
        ]
    for case in (Case("fast", trace, start_s) for trace in _SUDDEN for start_s in _STARTS_S):
        rivals = {rival.metric: spent.inside for rival, spent in beside.items() if rival.case == case}
        best = max(rivals, key=rivals.__getitem__)
        name = f"{case.trace}, start {case.start_s} s: more inside at equal GPU-hours than the best other ({best})"
        left = min(_AHEAD, 1.0 - rivals[best])  # nothing, where that one is never outside
        goals.append(Goal(name, own[case].inside - rivals[best], left))
    turns = max(outcome.turns for case, outcome in own.items() if case.replica == "fast")
    goals.append(Goal("changes of direction, any trace and start", turns, 4, at_most=True))
    goals.append(Goal("negative control: replicas that a bounded metric adds", grown, 0, at_most=True))
    return goals


def _plot(own: Own, beside: Beside) -> None:
    minutes = [second / 60 for second in range(0, _LENGTH_S, 10)]
    panels = [Panel(trace, minutes, _replicas(own, trace, minutes)) for trace in TRACES]
    _draw("autoscale-replicas", "Simulated: replicas at a demand ratio of 0.7", ("minutes", "replicas"), panels)
    panels = [Panel(trace, _STARTS_S, _shares(own, beside, trace)) for trace in _SUDDEN]
    title = "Simulated: answers inside the target, each metric at the GPU-hours of the demand ratio"
    _draw("autoscale-equal-hours", title, ("seconds that a pod starts", "share inside the target"), panels)


def _replicas(own: Own, trace: str, minutes: Sequence[float]) -> dict[str, Sequence[float]]:
    lines: dict[str, Sequence[float]] = {"load / 0.7": [TRACES[trace](round(60 * at)) / _TARGET for at in minutes]}
    return lines | {f"start {at} s": own[Case("fast", trace, at)].replicas[::10] for at in _STARTS_S}


def _shares(own: Own, beside: Beside, trace: str) -> dict[str, Sequence[float]]:
    cases = [Case("fast", trace, start_s) for start_s in _STARTS_S]
    spent = {(rival.case, rival.metric): found.inside for rival, found in beside.items()}
    lines: dict[str, Sequence[float]] = {"demand ratio": [own[case].inside for case in cases]}
    return lines | {metric: [spent[case, metric] for case in cases] for metric in OTHERS}


def _draw(name: str, title: str, labels: tuple[str, str], panels: Sequence[Panel]) -> None:
    if not draw(_FOLDER / f"{name}.svg", title, *labels, panels):
        sys.stderr.write(f"no {name}.svg: matplotlib is not installed\n")


def _conditions() -> dict[str, object]:
    replicas = {
        name: {
            "base, text, s": [one.base_s, one.text_s],
            "texts a batch": one.most,
            "capacity, texts/s": round(one.capacity, 1),
            "target, s": one.target_s,
            "callers wait, s": one.timeout_s,
        }
        for name, one in (("fast, assumed H200-class", FAST), ("slow, measured on one core", SLOW))
    }
    return {
        "simulated": True,
        "autoscaler": f"HPA v2 as `headrace plan` sets it, for every metric; at most {_MOST}; every 15 s",
        "foresight": f"in every second just the replicas for a load of {_TARGET}",
        "other metrics": "at the GPU-hours of the demand ratio on the same trace, between two near targets",
        "replicas": replicas,
    }
