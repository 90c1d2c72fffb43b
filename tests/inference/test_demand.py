import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.demand import WINDOW_S, Demand, DemandMeter


def meter(*, devices: int = 1, target_s: float = 0.1, window_s: float = WINDOW_S) -> DemandMeter:
    return DemandMeter(devices, target_s, window_s=window_s)


def offer_evenly(subject: DemandMeter, share: float, *, until: float = 10 * WINDOW_S, calls_per_s: int = 50) -> None:
    """Offer calls so that they ask for this share of every second."""
    for number in range(round(until * calls_per_s)):
        subject.offer(10, share / calls_per_s, number / calls_per_s)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0, 2.0, 8.0])
def test_the_offered_term_is_the_work_asked_for_in_a_second_and_has_no_upper_bound(share: float) -> None:
    subject = meter()

    offer_evenly(subject, share)

    assert subject.read(10 * WINDOW_S).offered == pytest.approx(share, rel=0.01)


def test_a_step_is_seen_to_63_percent_after_a_window() -> None:
    subject = meter()

    offer_evenly(subject, 1.0, until=WINDOW_S)

    assert subject.read(WINDOW_S).offered == pytest.approx(1 - math.exp(-1), rel=0.01)


def test_nothing_new_makes_it_fade() -> None:
    subject = meter()
    offer_evenly(subject, 1.0)

    faded = subject.read(11 * WINDOW_S)

    assert faded.offered == pytest.approx(math.exp(-1), rel=0.02)


def test_two_devices_are_asked_for_half_as_much_each() -> None:
    one, two = meter(devices=1), meter(devices=2)

    for subject in (one, two):
        subject.offer(10, 0.5, 0.0)
        subject.hold(0.5, 0.0)

    assert two.read(1.0).offered == pytest.approx(one.read(1.0).offered / 2)
    assert two.read(1.0).in_flight == pytest.approx(one.read(1.0).in_flight / 2)


calls = st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(1e-4, 1.0), st.integers(0, 2)), min_size=1, max_size=50)


@given(calls)
def test_the_sum_over_replicas_is_what_one_would_have_read(calls: list[tuple[float, float, int]]) -> None:
    whole, parts = meter(), [meter() for _ in range(3)]
    for moment, work_s, replica in sorted(calls):
        whole.offer(1, work_s, moment)
        parts[replica].offer(1, work_s, moment)

    added = sum(part.read(101.0).offered for part in parts)

    assert added == pytest.approx(whole.read(101.0).offered)


def test_in_flight_is_the_wait_of_what_is_here_over_the_target() -> None:
    subject = meter(target_s=0.1)

    subject.hold(0.05, 0.0)

    assert subject.read(20 * WINDOW_S).in_flight == pytest.approx(0.5)


def test_in_flight_counts_for_as_long_as_it_lasted() -> None:
    subject = meter(target_s=0.1)
    subject.hold(0.0, -20 * WINDOW_S)

    for start in range(1000):
        subject.hold(0.4, start / 10)
        subject.hold(0.0, start / 10 + 0.025)

    assert subject.read(100.0).in_flight == pytest.approx(1.0, rel=0.05)


def test_the_ratio_is_the_larger_of_both() -> None:
    assert Demand(offered=0.4, in_flight=0.7, tokens_per_s=None).ratio == 0.7
    assert Demand(offered=0.9, in_flight=0.7, tokens_per_s=None).ratio == 0.9


def test_a_long_queue_asks_for_two_and_a_half_times_as_much_at_most_and_what_is_offered_for_more() -> None:
    assert Demand(offered=0.9, in_flight=30.0, tokens_per_s=None).ratio == 2.5
    assert Demand(offered=4.0, in_flight=30.0, tokens_per_s=None).ratio == 4.0


def test_work_that_takes_longer_than_predicted_is_more_work() -> None:
    subject = meter()
    subject.offer(100, 1.0, 0.0)
    before = subject.read(0.0)

    for _ in range(1000):
        subject.ran(0.5, 0.6)

    after = subject.read(0.0)
    assert after.offered == pytest.approx(1.2 * before.offered, rel=0.01)
    assert after.tokens_per_s == pytest.approx(100 / 1.2, rel=0.01)
    assert before.tokens_per_s == pytest.approx(100)


def test_one_stall_does_not_make_the_device_look_slow_for_good() -> None:
    subject = meter()
    subject.offer(100, 1.0, 0.0)
    expected = subject.read(0.0).offered

    subject.ran(0.05, 60.0)

    assert subject.read(0.0).offered < 1.2 * expected


def test_the_capacity_is_unknown_before_the_first_call_and_stays_known_after_the_last() -> None:
    subject = meter()
    unknown = subject.read(0.0).tokens_per_s
    subject.offer(100, 0.5, 1.0)

    assert unknown is None
    assert subject.read(1.0 + 30 * WINDOW_S).tokens_per_s == pytest.approx(200)


def test_a_moment_that_was_taken_before_the_last_one_is_no_error() -> None:
    subject = meter()

    subject.offer(1, 1.0, 5.0)
    subject.offer(1, 1.0, 4.999)

    assert subject.read(5.0).offered == pytest.approx(2.0 / WINDOW_S)
