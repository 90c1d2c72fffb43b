import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.arrivals import KINDS, Kind
from loadtests.plan import Plan
from loadtests.shapes import SHAPES

NAMES = st.sampled_from(sorted(SHAPES))


@given(NAMES, st.sampled_from(KINDS), st.integers(1, 7))
def test_shares_together_are_the_plan(shape: str, kind: Kind, shares: int) -> None:
    plan = Plan(40.0, 10.0, 1.0, SHAPES[shape], kind, seed=3)

    parts = [list(plan.moments(share, shares)) for share in range(shares)]

    assert sorted(itertools.chain(*parts)) == list(plan.moments())
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(NAMES, st.floats(0.0, 11.0))
def test_no_moment_of_the_warm_up_is_judged_and_every_other_is_in_its_period(shape: str, moment: float) -> None:
    plan = Plan(40.0, 10.0, 1.0, SHAPES[shape])

    period = plan.period(moment)

    if period is None:
        assert moment < 1.0 or moment >= 11.0 or shape == "step"
    else:
        start, end = plan.seconds(period)
        assert start - 1e-9 <= moment <= end + 1e-9


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_rate_is_the_highest_of_its_shape(name: str) -> None:
    course = SHAPES[name].course(80.0, 2.0, 60.0)

    assert max(knot.rate for knot in course) == 80.0
    assert (course[0].at_s, course[-1].at_s) == (0.0, 62.0)


def test_the_last_step_offers_the_whole_rate_and_the_first_a_tenth() -> None:
    plan = Plan(100.0, 50.0, 5.0, SHAPES["step"])

    assert plan.offered("10 %") == pytest.approx(10.0)
    assert plan.offered("100 %") == pytest.approx(100.0)


def test_a_trace_takes_the_place_of_rate_and_shape() -> None:
    plan = Plan(99.0, 2.0, 1.0, SHAPES["steady"], trace=(0.0, 1.5, 2.0, 2.5, 9.0))

    assert list(plan.moments()) == [0.0, 1.5, 2.0, 2.5]
    assert plan.offered("steady") == 1.5


@given(st.floats(0.0, 11.0, exclude_max=True))
def test_every_moment_is_in_its_slice(moment: float) -> None:
    plan = Plan(40.0, 10.0, 1.0, SHAPES["steady"])

    start, end = plan.slice_s(plan.slice(moment))

    assert start - 1e-9 <= moment <= end + 1e-9
