"""Whether what was promised was kept, and whether the run can say so at all. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from loadtests.plan import Plan
from loadtests.record import Record, Tally
from loadtests.slo import Objective, Slo

Outcome = Literal["met", "missed", "invalid"]
EXIT_CODES: Final[dict[Outcome, int]] = {"met": 0, "missed": 1, "invalid": 3}

_LAG_SHARE: Final = 0.1  # of the objective's own bound
_UNJUDGED_LAG_MS: Final = 10.0  # where no latency is promised


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise in one period; `found` and `bound` in the unit that the measure's name says."""

    route: str
    period: str
    measure: str
    found: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it was kept."""
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    def __str__(self) -> str:
        """`/v1/embeddings, steady: p99_ms 120 <= 250: met`."""
        relation = ">=" if self.at_least else "<="
        words = f"{self.found:.4g} {relation} {self.bound:g}: {'met' if self.met else 'MISSED'}"
        return f"{self.route}, {self.period}: {self.measure} {words}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a run. `reasons` say why it is invalid."""

    findings: tuple[Finding, ...]
    reasons: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """Invalid before missed: where the generator may be to blame, nothing is said of the server."""
        if self.reasons:
            return "invalid"
        return "met" if all(finding.met for finding in self.findings) else "missed"

    @property
    def exit_code(self) -> int:
        """What the process ends with."""
        return EXIT_CODES[self.outcome]


def judge(record: Record, plan: Plan, slo: Slo, *, shares: int) -> Verdict:
    """Judge every route in every period. `shares` is how many shares of the plan there should be."""
    findings: list[Finding] = []
    reasons = [f"only {record.shares} of {shares} shares of the plan were run"] if record.shares < shares else []
    seen = sorted({(key.route, key.period) for key in record.tallies})
    silent = {period for period in plan.shape.periods if plan.offered(period) > 0} - {period for _, period in seen}
    reasons += [f"{period}: no call arrived" for period in sorted(silent)]
    for route, period in seen:
        tally, objective = record.total(route=route, period=period), slo.of(route)
        reasons += [f"{route}, {period}: {reason}" for reason in _doubts(tally, objective or Objective())]
        if objective is not None:
            start, end = plan.seconds(period)
            findings += _findings(tally, objective, route, period, end - start)
    return Verdict(tuple(findings), tuple(reasons))


def most_lag_ms(objective: Objective) -> float:
    """How late the generator may send, at its 99th percentile."""
    bounds = [bound for _, bound in objective.percentiles.values()]
    promised = objective.p99_ms or (max(bounds) if bounds else None)
    return _UNJUDGED_LAG_MS if promised is None else _LAG_SHARE * promised


def _doubts(tally: Tally, objective: Objective) -> Iterator[str]:
    if tally.lost:
        yield f"the generator lost {tally.lost} of {tally.due} calls"
    if not _missed_beyond_doubt(tally, objective):
        yield from _shortcomings(tally, objective)
    for name, (percent, _) in objective.percentiles.items():
        needed = round(100 / (100 - percent))
        if tally.due < needed:
            yield f"{tally.due} calls are too few for {name}: it takes {needed}"


def _missed_beyond_doubt(tally: Tally, objective: Objective) -> bool:
    """
    Whether a latency is missed whatever the generator did wrong.

    By ten times its greatest delay, which a thaw brings about too; what it dropped counts as answered at once.
    """
    delay_ms = 1000 * tally.lag.percentile_s(100)
    if not tally.lag.count:
        return False
    for percent, bound_ms in objective.percentiles.values():
        late = tally.latency.count - tally.latency.within((bound_ms + delay_ms / _LAG_SHARE) / 1000)
        if late > (1 - percent / 100) * (tally.latency.count + tally.dropped):
            return True
    return False


def _shortcomings(tally: Tally, objective: Objective) -> Iterator[str]:
    if tally.dropped:
        yield f"the generator dropped {tally.dropped} of {tally.due} calls: more processes, or a lower rate"
    lag_ms, most_ms = 1000 * tally.lag.percentile_s(99), most_lag_ms(objective)
    if tally.lag.count and lag_ms > most_ms:
        yield f"the generator sent late: p99 {lag_ms:.3g} ms, where {most_ms:g} are allowed"


def _findings(tally: Tally, objective: Objective, route: str, period: str, seconds: float) -> Iterator[Finding]:
    for name, (percent, bound) in objective.percentiles.items():
        yield Finding(route, period, name, 1000 * tally.latency.percentile_s(percent), bound)
    due = max(1, tally.due)
    yield Finding(route, period, "error_rate", tally.failed.total() / due, objective.error_rate)
    yield Finding(route, period, "shed_rate", tally.shed / due, objective.shed_rate)
    if objective.goodput is not None and objective.in_time_ms is not None:
        good = tally.latency.within(objective.in_time_ms / 1000)
        yield Finding(route, period, "goodput", good / seconds, objective.goodput, at_least=True)
