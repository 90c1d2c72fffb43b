"""
Autoscaling, simulated: the demand ratio beside the metrics that fleets are scaled on elsewhere, on six traces.

The autoscaler's arithmetic, the meter and the capacity are the product's own (gateway/hpa.py, fleet.py,
inference/demand.py); pods, traces and the other metrics are simulated. Each other metric is tried at many targets.
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
from benchmarks.plot import Panel, draw
from benchmarks.policy.curves import CURVES
from benchmarks.results import Figure, Findings, Goal
from gateway.fleet import Outcome, Replica, Scaling, foresight_gpu_hours, simulate
from gateway.hpa import Hpa

_TARGET: Final = 0.7
_STARTS_S: Final = (30, 60, 180)
_LENGTH_S: Final = 2400
_MOST: Final = 20
_TOKENS: Final = 51  # a text, the mean of the benchmarks' mix
_TUNINGS: Final = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)  # loads that the other metrics' targets stand for
_CALM: Final = ("steady", "ramp", "day")
_SUDDEN: Final = ("step", "bursts", "flash")
_DEMAND: Final = "demand ratio"
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


@dataclass(frozen=True, slots=True)
class Case:
    """One simulated run."""

    replica: str  # `fast` or `slow`
    trace: str
    start_s: int
    metric: str
    load: float  # what the target stands for

    def outcome(self) -> Outcome:
        """Run it from as many replicas as foresight would have."""
        replica = {"fast": FAST, "slow": SLOW}[self.replica]
        rates = rates_of(self.trace, replica)
        metric = {_DEMAND: DEMAND, "bounded": BOUNDED, **OTHERS}[self.metric]
        target = self._target(metric, replica)
        first = math.ceil(rates[0] / replica.capacity / _TARGET - 1e-9)
        return simulate(replica, rates, Scaling(Hpa(metric.kind, target, 1, _MOST), metric.gauge, self.start_s), first)

    def _target(self, metric: Metric, replica: Replica) -> float:
        if self.metric in {_DEMAND, "bounded"}:
            return self.load
        return max(0.001, metric.at(replica, self.load))


def rates_of(trace: str, replica: Replica) -> Sequence[float]:
    """A trace in texts a second, a value a second."""
    return [TRACES[trace](second) * replica.capacity for second in range(_LENGTH_S)]


def run(rounds: int, seconds: float) -> Findings:
    """Simulate every case once: neither rounds nor seconds change what is simulated."""
    own = {
        (name, trace, start_s): Case(name, trace, start_s, _DEMAND, _TARGET)
        for name in ("fast", "slow")
        for trace in TRACES
        for start_s in _STARTS_S
    }
    others = [
        Case("fast", trace, start_s, metric, load)
        for trace in TRACES
        for start_s in _STARTS_S
        for metric in OTHERS
        for load in _TUNINGS
    ]
    bounded = [Case("fast", trace, 60, "bounded", 2.0) for trace in TRACES]
    cases = [*own.values(), *others, *bounded]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        found = dict(zip(cases, pool.map(Case.outcome, cases, chunksize=20), strict=True))
    _plot(found)
    figures = [figure for case in own.values() for figure in _figures(case, found[case])]
    figures += [_beside(found, trace, at, metric) for trace in TRACES for at in _STARTS_S for metric in OTHERS]
    return Findings("autoscale", "simulated", figures, _goals(found, bounded), _conditions())


Found = Mapping[Case, Outcome]


def _figures(case: Case, outcome: Outcome) -> list[Figure]:
    name = f"{case.replica}, {case.trace}, start {case.start_s} s, {_DEMAND}"
    return [
        Figure(name, "inside the target, share", (outcome.inside,)),
        Figure(name, "GPU-hours / foresight's", (_ratio(case, outcome),)),
        Figure(name, "changes of direction", (float(outcome.turns),)),
        Figure(name, "most replicas", (float(outcome.most),)),
    ]


def _beside(found: Found, trace: str, start_s: int, metric: str) -> Figure:
    name = f"fast, {trace}, start {start_s} s, {metric} for no more GPU-hours"
    return Figure(name, "inside the target, share", (_best(found, trace, start_s, metric),))


def _best(found: Found, trace: str, start_s: int, metric: str) -> float:
    """The most inside the target at any of its targets for the GPU-hours of the demand ratio; else at its cheapest."""
    own = found[Case("fast", trace, start_s, _DEMAND, _TARGET)]
    tuned = [found[Case("fast", trace, start_s, metric, load)] for load in _TUNINGS]
    as_cheap = [outcome for outcome in tuned if outcome.gpu_hours <= own.gpu_hours * 1.005]
    cheapest = min(tuned, key=lambda outcome: outcome.gpu_hours)
    return max((outcome.inside for outcome in as_cheap), default=cheapest.inside)


def _ratio(case: Case, outcome: Outcome) -> float:
    replica = {"fast": FAST, "slow": SLOW}[case.replica]
    return outcome.gpu_hours / foresight_gpu_hours(replica, rates_of(case.trace, replica), _TARGET)


def _goals(found: Found, bounded: Sequence[Case]) -> list[Goal]:
    goals = []
    for trace in _CALM:
        case = Case("fast", trace, 60, _DEMAND, _TARGET)
        goals += [
            Goal(f"{trace}, start 60 s: inside the target", found[case].inside, 0.995),
            Goal(f"{trace}, start 60 s: GPU-hours / foresight's", _ratio(case, found[case]), 1.15, at_most=True),
        ]
    for trace in _SUDDEN:
        for start_s in _STARTS_S:
            own = found[Case("fast", trace, start_s, _DEMAND, _TARGET)]
            rivals = {metric: _best(found, trace, start_s, metric) for metric in OTHERS}
            best = max(rivals, key=rivals.__getitem__)
            name = f"{trace}, start {start_s} s: inside the target beyond the best other's ({best})"
            goals.append(Goal(name, own.inside - rivals[best], 0.0))
    turns = max(outcome.turns for case, outcome in found.items() if case.metric == _DEMAND and case.replica == "fast")
    goals.append(Goal("changes of direction, any trace and start", turns, 4, at_most=True))
    grown = max(found[case].most - found[case].replicas[0] for case in bounded)
    goals.append(Goal("negative control: replicas that a bounded metric adds", grown, 0, at_most=True))
    return goals


def _plot(found: Found) -> None:
    minutes = [second / 60 for second in range(0, _LENGTH_S, 10)]
    for start_s in _STARTS_S:
        panels = []
        for trace in TRACES:
            case = Case("fast", trace, start_s, _DEMAND, _TARGET)
            lines: dict[str, Sequence[float]] = {
                "load / 0.7": [TRACES[trace](round(60 * at)) / _TARGET for at in minutes]
            }
            lines |= {_DEMAND: found[case].replicas[::10]}
            lines |= {
                name: found[Case("fast", trace, start_s, name, 0.7)].replicas[::10]
                for name in ("GPU duty", "queue length", "CPU")
            }
            panels.append(Panel(trace, minutes, lines))
        path = _FOLDER / f"autoscale-start-{start_s}-s.svg"
        title = f"Simulated: pods that start in {start_s} s, every target tuned to a load of 0.7"
        if not draw(path, title, "minutes", "replicas", panels):
            sys.stderr.write(f"no {path.name}: matplotlib is not installed\n")


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
        "autoscaler": f"HPA v2 defaults, at most {_MOST}, asked every 15 s, scraped every 15 s, 7 s before",
        "foresight": f"in every second just the replicas for a load of {_TARGET}",
        "other metrics": f"tuned to each of the loads {_TUNINGS}; the best that costs at most 1.005 x as much",
        "replicas": replicas,
    }
