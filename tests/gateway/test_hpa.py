import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hpa import Autoscaler, Hpa, Policy, Rules, Seen, external, pods

AT_ONCE = Rules((Policy("percent", 1000, 15.0),), window_s=0.0)
DOWN_AT_ONCE = Rules((Policy("percent", 100, 15.0),), window_s=0.0)
EXTERNAL = Hpa("external", 0.7, up=AT_ONCE, down=DOWN_AT_ONCE)
PODS = Hpa("pods", 0.7, up=AT_ONCE, down=DOWN_AT_ONCE)


def test_an_external_sum_is_divided_by_the_target_whatever_starts() -> None:
    assert external(EXTERNAL, Seen(2, 0, [1.4, 1.4])) == 4
    assert external(EXTERNAL, Seen(4, 2, [1.4, 1.4])) == 4  # asked again while two start: the same
    assert external(EXTERNAL, Seen(0, 0, [0.7])) == 1


@pytest.mark.parametrize(("each", "wanted"), [(0.63, 10), (0.77, 10), (0.778, 12), (0.629, 9)])
def test_a_tenth_around_the_target_changes_nothing(each: float, wanted: int) -> None:
    assert external(EXTERNAL, Seen(10, 0, [each] * 10)) == wanted
    assert pods(PODS, Seen(10, 0, [each] * 10)) == wanted


def test_starting_pods_count_as_idle_when_a_pods_metric_wants_more() -> None:
    assert pods(PODS, Seen(2, 0, [1.4, 1.4])) == 4
    assert pods(PODS, Seen(4, 2, [1.5, 1.5])) == 4  # without them it would be 5
    assert pods(PODS, Seen(4, 2, [0.3, 0.3])) == 1  # not when it wants fewer


def test_pods_without_a_reading_are_taken_for_whatever_changes_least() -> None:
    assert pods(PODS, Seen(3, 0, [1.4, 1.4])) == 4  # up: as idle; 2.8 / 0.7
    assert pods(PODS, Seen(3, 0, [0.21, 0.21])) == 2  # down: as on target; 1.12 / 0.7
    assert pods(PODS, Seen(2, 0, [0.84])) == 2  # what they are taken for would turn the direction


def test_thousandths_are_rounded_up_as_in_the_api() -> None:
    assert external(Hpa("external", 0.001), Seen(1, 0, [0.0021])) == 3


def test_nothing_scraped_changes_nothing() -> None:
    assert Autoscaler(EXTERNAL).desired(Seen(3, 0, []), 0.0) == 3


def test_down_goes_only_what_was_wanted_for_the_whole_window() -> None:
    subject = Autoscaler(Hpa("external", 1.0, down=Rules(DOWN_AT_ONCE.policies, 300.0)))

    wanted = [subject.desired(Seen(5, 0, [total]), now) for now, total in [(0, 5.0), (15, 2.0), (30, 3.0), (45, 2.0)]]
    later = subject.desired(Seen(5, 0, [2.0]), 310.0)
    last = subject.desired(Seen(3, 0, [2.0]), 345.0)

    assert wanted == [5, 5, 5, 5]
    assert later == 3  # the most of the last 300 s
    assert last == 2


def test_up_goes_only_what_was_wanted_for_the_whole_window() -> None:
    subject = Autoscaler(Hpa("external", 1.0, up=Rules(AT_ONCE.policies, 60.0)))

    wanted = [subject.desired(Seen(2, 0, [total]), now) for now, total in [(0, 2.0), (15, 9.0), (61, 6.0), (76, 9.0)]]

    assert wanted == [2, 2, 6, 6]


def test_the_larger_of_two_policies_counts_and_changes_in_its_period_are_deducted() -> None:
    up = Rules((Policy("percent", 100, 60.0), Policy("pods", 4, 60.0)), 0.0)
    subject = Autoscaler(Hpa("external", 1.0, up=up))

    steps = []
    current = 1
    for now in (0.0, 15.0, 30.0, 75.0):
        current = subject.desired(Seen(current, 0, [50.0]), now)
        steps.append(current)

    assert steps == [5, 5, 5, 10]


def test_the_smaller_counts_where_that_is_asked_for_and_none_where_it_is_off() -> None:
    policies = (Policy("percent", 50, 15.0), Policy("pods", 1, 15.0))
    slow = Hpa("external", 1.0, up=Rules(policies, 0.0, "min"), down=Rules(policies, 0.0, "min"))
    off = Hpa("external", 1.0, up=Rules(policies, 0.0, "disabled"), down=Rules(policies, 0.0, "disabled"))

    assert Autoscaler(slow).desired(Seen(8, 0, [50.0]), 0.0) == 9
    assert Autoscaler(slow).desired(Seen(8, 0, [0.1]), 0.0) == 7
    assert Autoscaler(off).desired(Seen(8, 0, [0.1]), 0.0) == 8
    assert Autoscaler(off).desired(Seen(8, 0, [50.0]), 0.0) == 8


def test_percent_down_is_cut_off_and_percent_up_is_rounded_up() -> None:
    half = Rules((Policy("percent", 50, 15.0),), 0.0)
    subject = Autoscaler(Hpa("external", 1.0, up=half, down=half))
    subject.desired(Seen(5, 0, [5.0]), 0.0)

    assert subject.desired(Seen(5, 0, [0.1]), 15.0) == 2
    assert Autoscaler(Hpa("external", 1.0, up=half)).desired(Seen(5, 0, [50.0]), 0.0) == 8


def test_a_fleet_outside_of_its_bounds_is_brought_inside() -> None:
    hpa = Hpa("external", 1.0, least=3, most=6)

    assert Autoscaler(hpa).desired(Seen(1, 0, []), 0.0) == 3
    assert Autoscaler(hpa).desired(Seen(9, 0, [9.0]), 0.0) == 6
    assert Autoscaler(hpa).desired(Seen(6, 0, [50.0]), 0.0) == 6


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(0, 3)), min_size=1, max_size=60), st.integers(1, 8))
def test_no_step_leaves_the_bounds_or_outruns_the_policies(seen: list[tuple[float, int]], first: int) -> None:
    hpa = Hpa("external", 0.7, least=1, most=8)
    subject, current = Autoscaler(hpa), first

    for step, (total, pending) in enumerate(seen):
        wanted = subject.desired(Seen(current, min(pending, current), [total]), 15.0 * step)

        assert 1 <= wanted <= 8
        assert wanted <= max(2 * current, current + 4)
        assert wanted <= max(current, math.ceil(total / 0.7) + 1)
        current = wanted
