import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.arrivals import KINDS, BadTrace, Kind, Knot, due, expected, read_trace

RATES = st.floats(0.0, 200.0)
COURSES = st.lists(st.tuples(st.floats(0.1, 3.0), RATES, RATES), min_size=1, max_size=5)


def course(pieces: list[tuple[float, float, float]]) -> list[Knot]:
    """Pieces of (seconds, rate at its start, rate at its end), one after another."""
    knots, at_s = [], 0.0
    for seconds, first, last in pieces:
        knots += [Knot(at_s, first), Knot(at_s + seconds, last)]
        at_s += seconds
    return knots


@given(COURSES, st.sampled_from(KINDS), st.integers(0, 99))
def test_moments_are_in_order_and_inside_the_course(
    pieces: list[tuple[float, float, float]], kind: Kind, seed: int
) -> None:
    knots = course(pieces)

    moments = list(due(kind, knots, seed))

    assert all(a <= b for a, b in itertools.pairwise(moments))
    assert all(0.0 <= moment <= knots[-1].at_s for moment in moments)


@given(COURSES, st.floats(0.0, 1.0))
def test_constant_arrivals_are_never_a_call_away_from_what_is_due(
    pieces: list[tuple[float, float, float]], share: float
) -> None:
    knots = course(pieces)
    until_s = share * knots[-1].at_s

    arrived = sum(1 for moment in due("constant", knots, 0) if moment <= until_s)

    assert abs(arrived - expected(knots, until_s)) <= 0.51


@settings(max_examples=10)
@given(st.integers(0, 999))
def test_poisson_arrivals_come_as_often_as_told_and_as_irregularly(seed: int) -> None:
    moments = list(due("poisson", [Knot(0.0, 100.0), Knot(100.0, 100.0)], seed))
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5

    assert len(moments) == pytest.approx(10_000, abs=600)  # six standard deviations
    assert deviation / mean == pytest.approx(1.0, abs=0.12)


def test_poisson_arrivals_follow_the_course() -> None:
    knots = [Knot(0.0, 0.0), Knot(10.0, 2000.0), Knot(10.0, 100.0), Knot(20.0, 100.0)]

    moments = list(due("poisson", knots, 1))

    assert sum(1 for moment in moments if moment < 5.0) == pytest.approx(2500, abs=300)
    assert sum(1 for moment in moments if moment < 10.0) == pytest.approx(10_000, abs=600)
    assert sum(1 for moment in moments if moment >= 10.0) == pytest.approx(1000, abs=200)


def test_the_same_seed_gives_the_same_moments() -> None:
    knots = [Knot(0.0, 50.0), Knot(2.0, 50.0)]

    assert list(due("poisson", knots, 7)) == list(due("poisson", knots, 7)) != list(due("poisson", knots, 8))


def test_a_trace_begins_with_its_first_moment_whatever_its_heading() -> None:
    assert read_trace("seconds,what\n10.5,a\n11,b\n\n11,c\n") == [0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "no moment"), ("seconds\n", "no moment"), ("1\nx\n", "line 2"), ("2\n1\n", "order"), ("1\ninf\n", "order")],
)
def test_a_trace_that_cannot_be_replayed_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadTrace, match=said):
        read_trace(text)
