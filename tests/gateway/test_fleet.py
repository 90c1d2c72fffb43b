import math

import pytest

from gateway.fleet import DemandGauge, Outcome, Replica, Scaling, Second, foresight_gpu_hours, simulate
from gateway.hpa import Hpa

ONE = Replica(base_s=0.006, text_s=0.0001, most=400, target_s=0.1, timeout_s=1.0)


def scaled(
    rates: list[float], first: int, *, hpa: Hpa | None = None, start_s: float = 60.0, gpus: int = 1000
) -> Outcome:
    """Rates in shares of a replica's capacity."""
    texts = [rate * ONE.capacity for rate in rates]
    return simulate(ONE, texts, Scaling(hpa or Hpa("external", 0.7), DemandGauge, start_s, gpus), first)


def test_a_steady_replica_is_busy_long_before_it_is_full_and_its_queue_is_convex() -> None:
    low, middle, high = (ONE.steady(load) for load in (0.2, 0.5, 0.9))

    assert low.duty > 0.9
    assert high.in_flight - middle.in_flight > middle.in_flight - low.in_flight
    assert low.inside == 1.0


def test_texts_in_flight_are_the_rate_times_the_latency() -> None:
    """Little's law: batches of n take base + n x text, a text waits half of one and runs in one."""
    rate = 0.5 * ONE.capacity
    batch_s = ONE.base_s / (1 - rate * ONE.text_s)

    assert ONE.steady(0.5).in_flight == pytest.approx(rate * 1.5 * batch_s, rel=0.05)


def test_a_steady_load_keeps_its_replicas() -> None:
    outcome = scaled([3.0] * 900, first=5)

    assert set(outcome.replicas) == {5}
    assert outcome.inside == 1.0
    assert outcome.turns == 0
    assert outcome.gpu_hours == pytest.approx(5 * 900 / 3600)


def test_an_overload_is_late_until_the_pods_that_it_made_have_started() -> None:
    rates = [1.0] * 300 + [3.0] * 900
    early, late = scaled(rates, 2, start_s=30.0), scaled(rates, 2, start_s=180.0)

    assert late.inside < early.inside < 1.0
    assert early.most >= math.ceil(3 / 0.77)
    assert early.gpu_hours > 0


def test_half_of_what_comes_too_fast_is_late_or_refused() -> None:
    fixed = scaled([2.0] * 600, 1, hpa=Hpa("external", 0.7, 1, 1))

    assert fixed.inside < 0.1  # whoever waits as long as callers have patience is late
    assert fixed.most == 1


def test_pods_beyond_the_quota_never_start_and_cost_nothing() -> None:
    outcome = scaled([4.0] * 900, 2, gpus=3)

    assert outcome.most > 3
    assert outcome.gpu_hours <= 3 * 900 / 3600
    assert outcome.inside < 1.0


def test_a_pod_that_starts_tells_no_demand_and_does_not_pull_the_fleet_down() -> None:
    outcome = scaled([1.0] * 60 + [2.5] * 240, 2, start_s=120.0)

    assert list(outcome.replicas) == sorted(outcome.replicas)
    assert outcome.most > 2


def test_the_gauge_reads_what_the_replica_is_asked_for() -> None:
    gauge = DemandGauge(ONE)
    for end in range(1, 300):
        gauge.see(Second(end, offered=1.4 * ONE.capacity, served=ONE.capacity, waiting=0.0, in_flight=0.0, duty=1.0))

    assert gauge.read(299.0) == pytest.approx(1.4, rel=0.05)


def test_foresight_has_just_the_replicas_that_each_second_needs() -> None:
    rates = [rate * ONE.capacity for rate in (0.0, 0.7, 0.71, 1.4)]

    assert foresight_gpu_hours(ONE, rates, 0.7) == pytest.approx((1 + 1 + 2 + 2) / 3600)


def test_a_trace_gives_the_same_outcome_every_time() -> None:
    rates = [1.0 + second / 300 for second in range(900)]

    assert scaled(rates, 2) == scaled(rates, 2)
