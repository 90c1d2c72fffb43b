from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rates import STEP, about, highest_rate

CAPACITY = 100.0


def meets(capacity: float) -> Callable[[float], bool]:
    return lambda rate: rate <= capacity


@given(st.floats(1.0, 1e4), st.floats(1.0, 1e4))
def test_the_highest_rate_is_within_a_step_of_the_capacity(capacity: float, first: float) -> None:
    found = highest_rate(meets(capacity), first)

    assert capacity / STEP * 0.999 <= found <= capacity


@pytest.mark.parametrize("missed", range(3))
def test_one_try_of_three_that_misses_ends_nothing(missed: int) -> None:
    tries: dict[float, int] = {}

    def disturbed(rate: float) -> bool:
        tries[rate] = tries.get(rate, 0) + 1
        return rate <= CAPACITY and tries[rate] != missed + 1

    assert highest_rate(disturbed, 16.0) == highest_rate(meets(CAPACITY), 16.0)


def test_one_try_of_three_that_is_lucky_proves_nothing() -> None:
    tries: dict[float, int] = {}

    def lucky(rate: float) -> bool:
        tries[rate] = tries.get(rate, 0) + 1
        return rate <= CAPACITY or tries[rate] == 1

    assert highest_rate(lucky, 16.0) <= CAPACITY


def test_a_single_rate_that_is_missed_is_stepped_over() -> None:
    hole = 16.0 * STEP * STEP

    assert highest_rate(lambda rate: rate <= CAPACITY and rate != hole, 16.0) > CAPACITY / STEP


def test_a_server_that_meets_nothing_has_no_rate() -> None:
    assert highest_rate(lambda rate: False, 64.0) == 0.0


@given(st.floats(1.0, 1e6))
def test_a_search_begins_below_the_capacity_where_there_is_one(capacity: float) -> None:
    first = about(meets(capacity), 8.0)

    assert first == 8.0 or capacity / 4 <= first <= capacity / 2
