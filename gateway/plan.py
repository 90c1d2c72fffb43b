"""
How a fleet should be scaled: target, least and most replicas, and what that costs, tried out in simulation.

Pure: takes what `headrace profile --output` wrote and a trace as text, gives a recommendation. What one replica can
do comes from the product's own scheduler and cost model, so that a plan and the metric agree on a capacity.
"""

import csv
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.fleet import DemandGauge, Outcome, Replica, Scaling, foresight_gpu_hours, simulate
from gateway.hpa import DOWN, Hpa, Policy, Rules
from inference import CostModel, Lane, Limits, Profile, Scheduler, Shape

_COLUMNS: Final = ["seconds", "texts_per_second", "tokens_per_text"]
_TARGETS: Final = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of the demand ratio: what is cheap first
_LONGEST_S: Final = 14 * 86_400
SURGE: Final = Rules((Policy("percent", 300, 15.0), Policy("pods", 4, 15.0)), window_s=0.0)
"""Up at once and by all that is missing: the sum does not grow with the pods, so there is no cascade to fear."""
_WINDOWS: Final = 2  # the window down is at least so many times the start: who removes late need not start again


class BadFile(Exception):
    """A profile or a trace that cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A trace: texts a second, one value a second, and the mean length of a text in tokens."""

    rates: Sequence[float]
    tokens: float


@dataclass(frozen=True, slots=True)
class Wish:
    """What callers should get, and what there is to give: times in seconds."""

    target_s: float
    timeout_s: float = 1.0
    start_s: float = 60.0
    gpus: int = 100
    inside: float = 0.995  # share of texts answered inside the target


@dataclass(frozen=True, slots=True)
class Recommendation:
    """How to scale, and what came of it in the simulation."""

    hpa: Hpa
    outcome: Outcome
    capacity: float  # of a replica, texts a second
    foresight_gpu_hours: float  # of perfect foresight at the same target
    met: bool  # whether the wish was


def read_profile(text: str, model: str | None) -> Profile:
    """One model's profile of a file; raises BadFile."""
    try:
        profiles = msgspec.json.decode(text, type=list[Profile])
    except msgspec.MsgspecError as err:
        raise BadFile(f"is not what `headrace profile --output` writes: {err}") from None
    by_name = {profile.model: profile for profile in profiles}
    if model is None and len(by_name) == 1:
        return profiles[0]
    if model not in by_name:
        raise BadFile(f"has the models {', '.join(by_name) or 'none'}; choose one with --model")
    return by_name[model]


def read_trace(text: str) -> Arrivals:
    """
    A trace from CSV; raises BadFile.

    Columns as in `_COLUMNS`; a rate holds until the next row, the last row ends the trace.
    """
    head, *lines = list(csv.reader(text.splitlines())) or [[]]
    if [name.strip() for name in head] != _COLUMNS:
        raise BadFile(f"line 1: the columns must be {','.join(_COLUMNS)}")
    rows = [_row(line, number) for number, line in enumerate(lines, start=2) if line]
    if len(rows) < 2:  # noqa: PLR2004
        raise BadFile("needs two rows or more: the last one only says when the trace ends")
    rates: list[float] = []
    texts = tokens = 0.0
    for number, (row, after) in enumerate(itertools.pairwise(rows), start=3):
        seconds = round(after[0] - rows[0][0]) - len(rates)
        if seconds < 1:
            raise BadFile(f"line {number}: each row must be at least a second after the one before")
        rates += [row[1]] * seconds
        texts, tokens = texts + row[1] * seconds, tokens + row[1] * row[2] * seconds
    if texts == 0.0:
        raise BadFile("has no texts in it")
    return Arrivals(rates, tokens / texts)


def _row(line: Sequence[str], number: int) -> tuple[float, float, float]:
    try:
        at, rate, tokens = map(float, line)
    except ValueError:
        raise BadFile(f"line {number}: needs three numbers, not {','.join(line)!r}") from None
    if not (0.0 <= at <= _LONGEST_S and 0.0 <= rate < math.inf and 1.0 <= tokens < math.inf):
        raise BadFile(f"line {number}: needs 0 to {_LONGEST_S} seconds, a rate from 0 and tokens from 1")
    return at, rate, tokens


def replica(profile: Profile, tokens: float, wish: Wish) -> Replica:
    """What one replica does with texts of so many tokens; raises BadFile where it cannot keep the target."""
    cost = CostModel(profile.curve)
    limits = Limits(max_batch_tokens=profile.max_batch_tokens, latency_target_s=wish.target_s)
    scheduler = Scheduler(limits, {profile.model: Lane(packed=True, cost=cost)})
    length = max(1, round(tokens))
    text = Shape(length, 1, length * length)
    base_s, text_s = profile.curve.base_s, cost.seconds(text) - profile.curve.base_s
    if text_s <= 0.0 or base_s + text_s > wish.target_s:
        raise BadFile(
            f"says that a text of {length} tokens takes {base_s + text_s:.3g} s: above the target, or nothing"
        )
    share_s = scheduler.price_s(profile.model, text) - text_s  # its part of a full batch's base
    most = max(1, round(base_s / share_s)) if share_s > 0.0 else max(1, profile.max_batch_tokens // length)
    return Replica(base_s, text_s, most, wish.target_s, max(wish.timeout_s, wish.target_s))


def recommend(one: Replica, rates: Sequence[float], wish: Wish) -> Recommendation:
    """The cheapest settings that keep the wish, with more replicas at rest if that is what it takes; else the best."""
    tried = [_try(one, rates, wish, target, least=1) for target in _TARGETS]
    if not any(found.met for found in tried):
        best = _best(tried)
        tried += [_try(one, rates, wish, best.hpa.target, least) for least in range(2, best.hpa.most + 1)]
    met = [found for found in tried if found.met]
    return min(met, key=lambda found: found.outcome.gpu_hours) if met else _best(tried)


def _best(tried: Sequence[Recommendation]) -> Recommendation:
    return max(tried, key=lambda found: (found.outcome.inside, -found.outcome.gpu_hours))


def _try(one: Replica, rates: Sequence[float], wish: Wish, target: float, least: int) -> Recommendation:
    foresight = foresight_gpu_hours(one, rates, target)
    peak = math.ceil(max(rates) / one.capacity / target) + 1
    hpa = Hpa("external", target, least, max(least, min(peak, wish.gpus)), SURGE, _down(wish))
    first = min(max(math.ceil(rates[0] / one.capacity / target), least), hpa.most)
    outcome = simulate(one, rates, Scaling(hpa, DemandGauge, wish.start_s, wish.gpus), first)
    return Recommendation(hpa, outcome, one.capacity, foresight, outcome.inside >= wish.inside)


def _down(wish: Wish) -> Rules:
    return Rules((Policy("percent", 100, 15.0),), max(DOWN.window_s, _WINDOWS * wish.start_s))


def summary(found: Recommendation, wish: Wish) -> str:
    """The recommendation, for people."""
    hpa, outcome = found.hpa, found.outcome
    hours = len(outcome.replicas) / 3600
    head = "" if found.met else f"NOT MET: nothing keeps {wish.inside:.1%} inside the target; the nearest is\n"
    return f"""{head}metric           sum of headrace_demand_ratio, External, AverageValue
target           {hpa.target:g}
replicas         {hpa.least} to {hpa.most}
up               window {hpa.up.window_s:g} s; 300 % or 4 pods in 15 s, whichever is more
down             window {hpa.down.window_s:g} s; 100 % in 15 s
a replica does   {found.capacity:.4g} texts/s
simulated        {outcome.inside:.3%} inside {wish.target_s * 1000:g} ms, {outcome.turns} changes of direction
costs            {outcome.gpu_hours:.4g} GPU-hours in {hours:.4g} h; foresight {found.foresight_gpu_hours:.4g}"""
