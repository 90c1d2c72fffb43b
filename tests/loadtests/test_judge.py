from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.judge import Verdict, judge
from loadtests.plan import Plan
from loadtests.record import Fate, Key, Record
from loadtests.shapes import SHAPES
from loadtests.slo import Objective, Slo

ROUTE = "/v1/embeddings"
PLAN = Plan(100.0, 10.0, 1.0, SHAPES["steady"])
PROMISE = Slo({ROUTE: Objective(p99_ms=100)})


def record(
    latencies_s: list[float], fate: Fate = "answered", lag_s: float = 0.0, *, period: str = "steady", dropped: int = 0
) -> Record:
    made = Record(shares=1)
    for latency_s in latencies_s:
        for tally in made.places(Key(ROUTE, "anybody", period), 0):
            tally.due += 1
            tally.add(fate, latency_s, lag_s, "status 500")
    for _ in range(dropped):
        for tally in made.places(Key(ROUTE, "anybody", period), 0):
            tally.due += 1
            tally.dropped += 1
    return made


def said(made: Record, slo: Slo = PROMISE, shares: int = 1) -> Verdict:
    return judge(made, PLAN, slo, shares=shares)


@settings(max_examples=25)
@given(st.lists(st.floats(0.09, 0.11), min_size=100, max_size=200))
def test_a_percentile_is_met_when_so_many_kept_the_bound(latencies_s: list[float]) -> None:
    over = sum(latency > 0.1002 for latency in latencies_s) / len(latencies_s)
    near = sum(latency >= 0.0998 for latency in latencies_s) / len(latencies_s)

    outcome = said(record(latencies_s)).outcome

    if near <= 0.01:
        assert outcome == "met"
    if over > 0.01:
        assert outcome == "missed"


@pytest.mark.parametrize("fate", ["failed", "shed"])
def test_what_is_not_allowed_in_so_many_words_is_not_allowed(fate: Fate) -> None:
    made = record([0.01] * 999)
    made.merge(record([0.01], fate))

    verdict = said(made)

    assert verdict.exit_code == 1
    assert [finding.found for finding in verdict.findings if not finding.met] == [0.001]


def test_a_share_that_is_allowed_may_fail_and_no_more() -> None:
    slo = Slo({ROUTE: Objective(p99_ms=100, error_rate=0.01)})
    within, beyond = record([0.01] * 99), record([0.01] * 98)
    within.merge(record([0.01], "failed"))
    beyond.merge(record([0.01] * 2, "failed"))

    assert said(within, slo).outcome == "met"
    assert said(beyond, slo).outcome == "missed"


def test_nobody_who_only_fails_fast_keeps_a_latency() -> None:
    verdict = said(record([0.001] * 200, "failed"), Slo({ROUTE: Objective(p99_ms=100, error_rate=1)}))

    assert verdict.outcome == "missed"


def test_goodput_is_answers_in_time_per_second() -> None:
    made = record([0.01] * 500 + [0.4] * 500)

    for goodput, outcome in ((50, "met"), (51, "missed")):
        slo = Slo({ROUTE: Objective(deadline_ms=100, goodput=goodput)})
        assert said(made, slo).outcome == outcome


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (record([0.01] * 200, dropped=1), "dropped 1 of 201"),
        (record([0.01] * 200, lag_s=0.011), "sent late: p99 11"),
        (record([0.01] * 99), "too few for p99_ms: it takes 100"),
        (Record(shares=1), "no call arrived"),
    ],
)
def test_a_run_that_cannot_tell_is_invalid(made: Record, why: str) -> None:
    verdict = said(made)

    assert verdict.exit_code == 3
    assert why in "; ".join(verdict.reasons)


def test_a_run_that_lost_a_call_or_a_worker_is_invalid() -> None:
    lossy = record([0.01] * 200)
    for tally in lossy.places(Key(ROUTE, "anybody", "steady"), 0):
        tally.due += 1

    assert "lost 1 of 201" in "; ".join(said(lossy).reasons)
    assert "only 1 of 2 shares" in "; ".join(said(record([0.01] * 200), shares=2).reasons)


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        (record([9.0] * 200, dropped=1), "missed"),
        (record([1.2] * 200, lag_s=0.1), "missed"),
        (record([1.0] * 200, lag_s=0.1), "invalid"),
        (record([9.0] * 2 + [0.01] * 98, dropped=99), "missed"),
        (record([9.0] * 2 + [0.01] * 98, dropped=101), "invalid"),
        (record([0.001] * 200, "failed", lag_s=0.02), "invalid"),
    ],
    ids=["one dropped", "by over ten delays", "by less", "few dropped", "many dropped", "no answer"],
)
def test_a_poor_run_is_missed_only_where_a_perfect_one_would_have_been(made: Record, outcome: str) -> None:
    assert said(made).outcome == outcome


def test_a_run_that_lost_a_call_is_invalid_whatever_it_missed() -> None:
    lossy = record([9.0] * 200)
    for tally in lossy.places(Key(ROUTE, "anybody", "steady"), 0):
        tally.due += 1

    assert said(lossy).outcome == "invalid"


def test_a_lag_of_a_tenth_of_the_promise_is_allowed() -> None:
    assert said(record([0.01] * 200, lag_s=0.0099)).outcome == "met"


def test_without_a_promise_a_valid_run_is_met_and_one_that_lagged_is_not() -> None:
    assert said(record([9.0] * 200), Slo({})).outcome == "met"
    assert said(record([9.0] * 200, lag_s=0.011), Slo({})).outcome == "invalid"


def test_each_period_is_judged_on_its_own() -> None:
    plan = Plan(100.0, 10.0, 1.0, SHAPES["spike"])
    made = record([0.01] * 200, period="before")
    made.merge(record([0.5] * 200, period="spike"))
    made.merge(record([0.01] * 200, period="after"))

    missed = [finding.period for finding in judge(made, plan, PROMISE, shares=3).findings if not finding.met]

    assert missed == ["spike"]


@pytest.mark.parametrize(("loop", "outcome"), [("closed", "met"), ("open", "missed")])
def test_a_server_that_freezes_2_s_in_10_is_seen_by_an_open_loop_alone(
    loop: Literal["closed", "open"], outcome: str
) -> None:
    """Simulated, 60 s: 5 callers at 100 calls a second together, and the same rate whoever waits."""
    plan = Plan(100.0, 60.0, 0.0, SHAPES["steady"])

    assert judge(frozen(plan, loop), plan, PROMISE, shares=1).outcome == outcome


def frozen(plan: Plan, loop: Literal["closed", "open"]) -> Record:
    def answered(sent: float) -> float:
        return (sent if sent % 10 < 8 else sent - sent % 10 + 10) + 0.005

    made = Record(shares=1)
    places = list(made.places(Key(ROUTE, "anybody", "steady"), 0))
    callers, every_s = 5, 5 / plan.rate

    def note(sent: float) -> None:
        for tally in places:
            tally.due += 1
            tally.add("answered", answered(sent) - sent, 0.0, "")

    if loop == "open":
        for moment in plan.moments():
            note(moment)
        return made
    for caller in range(callers):
        sent = caller * every_s / callers
        while sent < plan.whole_s:
            note(sent)
            sent = max(sent + every_s, answered(sent))
    return made
