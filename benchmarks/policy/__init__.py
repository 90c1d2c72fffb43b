"""
The batching policy on a simulated clock, beside the rules of other servers and a scheduler that sees the future.

The scheduler, its lane and its cost model are the product's own; device, arrivals and rivals are simulated. Goodput
is answers inside the deadline a second, as a share of what the device could do in full batches (its capacity).
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.plot import Panel, draw
from benchmarks.policy.arrivals import ARRIVALS, Traffic, traffic
from benchmarks.policy.curves import CURVES, Curve
from benchmarks.policy.fairness import Fairness, fairness
from benchmarks.policy.foresight import best_goodput
from benchmarks.policy.product import Product
from benchmarks.policy.rivals import EarlyBound, Infinity, LateBound, Tei
from benchmarks.policy.simulation import Noise, Policy, simulate
from benchmarks.results import Figure, Findings, Goal

_LOADS: Final = (0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)  # of the capacity
_SEEDS: Final = 3
_TEXTS: Final = 10_000  # at full load, for each of the `seconds`
_LEAST_S: Final = 5.0  # for each of the `seconds`, where bursts come once in 10 s
_FEWER: Final = 5  # times, on a CPU: its texts take the longer
_HEADRACE: Final = "headrace"
_REFERENCE: Final = "reference"
_POLICIES: Final[Mapping[str, Callable[[Traffic, Curve, int], Policy]]] = {
    _HEADRACE: Product,
    "early-bound (Ray Serve, MLServer)": EarlyBound,
    "late-bound (Triton)": LateBound,
    "TEI's rule": Tei,
    "infinity's rule": Infinity,
}
_CONTENDERS: Final = (*_POLICIES, _REFERENCE)
_FOLDER: Final = Path(__file__).parent.parent / "results"


@dataclass(frozen=True, slots=True)
class Case:
    """One simulated run of every contender: which device, which traffic, how much of it."""

    curve: Curve
    arrivals: str
    load: float
    seed: int
    seconds: float

    def goodputs(self) -> dict[str, float]:
        """Run it; returns each contender's share of the capacity."""
        capacity = self.curve.capacity
        end_s = self.seconds * _TEXTS / (_FEWER if self.curve.is_slow else 1) / capacity
        if self.arrivals == "bursty":
            end_s = max(end_s, self.seconds * _LEAST_S)
        drawn = traffic(self.arrivals, self.load * capacity, end_s, self.curve.target_s, self.seed)
        found = {name: self._goodput(policy, drawn) / capacity for name, policy in _POLICIES.items()}
        return found | {_REFERENCE: best_goodput(drawn, self.curve, self.seed) / capacity}

    def _goodput(self, policy: Callable[[Traffic, Curve, int], Policy], drawn: Traffic) -> float:
        return drawn.goodput(simulate(policy(drawn, self.curve, self.seed), drawn, self.curve, Noise(self.seed)))


Goodputs = Mapping[tuple[Curve, str, float], Mapping[str, tuple[float, ...]]]
"""By curve, arrivals and load: each contender's share of the capacity, a value a seed."""


def run(rounds: int, seconds: float) -> Findings:
    """Simulate every case with a seed a round, at most 3; `seconds` lengthens what is simulated."""
    seeds = range(min(rounds, _SEEDS))
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        fair = {curve: pool.submit(fairness, curve, 0) for curve in CURVES}
        goodputs = _goodputs(pool, seeds, seconds)
        callers = {curve: future.result() for curve, future in fair.items()}
    for curve in CURVES:
        _plot(curve, goodputs)
    figures = [*_shares(goodputs), *_ratios(goodputs), *_light(callers)]
    return Findings("policy", "simulated", figures, _goals(goodputs, callers), _conditions(seeds, seconds))


def _goodputs(pool: ProcessPoolExecutor, seeds: Sequence[int], seconds: float) -> Goodputs:
    keys = [(curve, arrivals, load) for curve in CURVES for arrivals in ARRIVALS for load in _LOADS]
    futures = {key: [pool.submit(Case(*key, seed, seconds).goodputs) for seed in seeds] for key in keys}
    found = {}
    for (curve, arrivals, load), cases in futures.items():
        results = [case.result() for case in cases]
        found[curve, arrivals, load] = {name: tuple(result[name] for result in results) for name in _CONTENDERS}
        shares = ", ".join(f"{name} {median(values):.3f}" for name, values in found[curve, arrivals, load].items())
        sys.stderr.write(f"{curve.name}, {arrivals}, load {load:.0%}: {shares}\n")
    return found


def _shares(goodputs: Goodputs) -> Iterator[Figure]:
    for (curve, arrivals, load), found in goodputs.items():
        for name, shares in found.items():
            yield Figure(f"{curve.name}: {arrivals}, load {load:.0%}, {name}", "goodput / capacity", shares)


def _ratios(goodputs: Goodputs) -> Iterator[Figure]:
    for curve in CURVES:
        for arrivals in ARRIVALS:
            name = f"{curve.name}: {arrivals}, {_HEADRACE}"
            lowest = tuple(map(min, zip(*_to_reference(goodputs, curve, arrivals), strict=True)))
            yield Figure(f"{name} to 100 %", "lowest goodput / reference's", lowest)
            yield Figure(f"{name} from 100 %", "lowest goodput / own most so far", (_kept(goodputs, curve, arrivals),))
            anywhere = _kept(goodputs, curve, arrivals, anywhere=True)
            yield Figure(f"{name} from 100 %", "lowest goodput / own most anywhere", (anywhere,))


def _to_reference(goodputs: Goodputs, curve: Curve, arrivals: str) -> list[tuple[float, ...]]:
    """The product's goodput to the reference's, up to full load: a row a load, a value a seed."""
    cases = [goodputs[curve, arrivals, load] for load in _LOADS if load <= 1.0]
    return [tuple(own / best for own, best in zip(case[_HEADRACE], case[_REFERENCE], strict=True)) for case in cases]


def _kept(goodputs: Goodputs, curve: Curve, arrivals: str, *, anywhere: bool = False) -> float:
    """
    The product's goodput from full load on, to the highest it had at that load or a lower one: at least so much.

    `anywhere`: to its highest at any load, which is no goal: goodput that goes on rising with the load (who may refuse
    long texts does answer more) misses it, and what must not happen is that it collapses.
    """
    medians = {load: median(goodputs[curve, arrivals, load][_HEADRACE]) for load in _LOADS}
    return min(
        share / max(other for lower, other in medians.items() if anywhere or lower <= load)
        for load, share in medians.items()
        if load >= 1.0
    )


def _light(callers: Mapping[Curve, Fairness]) -> Iterator[Figure]:
    for curve, found in callers.items():
        yield Figure(f"{curve.name}: light caller alone", "p99 ms", (1000 * found.alone_p99_s,))
        yield Figure(f"{curve.name}: light caller beside a flood", "p99 ms", (1000 * found.beside_p99_s,))
        yield Figure(f"{curve.name}: the flood's answers meanwhile", "texts", (found.flood_texts,))


def _goals(goodputs: Goodputs, callers: Mapping[Curve, Fairness]) -> list[Goal]:
    goals = []
    for curve in CURVES:
        ratio = min(median(seeds) for seeds in _to_reference(goodputs, curve, "poisson"))
        goals += [
            Goal(f"{curve.name}: Poisson to 100 %, lowest goodput / reference's", ratio, 0.95),
            Goal(
                f"{curve.name}: Poisson from 100 %, lowest goodput / own most so far",
                _kept(goodputs, curve, "poisson"),
                0.9,
            ),
        ]
    for curve, found in callers.items():
        excess = (found.beside_p99_s - found.alone_p99_s) / found.cap_s
        goals.append(Goal(f"{curve.name}: light caller's p99 beyond alone, in batch caps", excess, 2.0, at_most=True))
    return goals


def _plot(curve: Curve, goodputs: Goodputs) -> None:
    panels = [
        Panel(
            arrivals,
            [100 * load for load in _LOADS],
            {name: [100 * median(goodputs[curve, arrivals, load][name]) for load in _LOADS] for name in _CONTENDERS},
        )
        for arrivals in ARRIVALS
    ]
    path = _FOLDER / f"policy-{re.sub('[^a-z0-9]+', '-', curve.name)}.svg"
    title = f"Simulated: {curve.name}, target {1000 * curve.target_s:.0f} ms, capacity {curve.capacity:.0f} texts/s"
    if not draw(path, title, "load, % of capacity", "goodput, % of capacity", panels):
        sys.stderr.write(f"no {path.name}: matplotlib is not installed\n")


def _conditions(seeds: Sequence[int], seconds: float) -> dict[str, object]:
    curves = {
        curve.name: {
            "capacity, texts/s": round(curve.capacity, 1),
            "target, s": curve.target_s,
            "packed": curve.packed,
            "tokens a batch": curve.budget,
            "base, token, square, s": [curve.base_s, curve.token_s, curve.square_s],
        }
        for curve in CURVES
    }
    return {"simulated": True, "seeds": len(seeds), "seconds": seconds, "curves": curves}
