import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.record import Key, Latencies, Record, from_plain

SECONDS = st.floats(1e-6, 3000.0)
STEADY = Key("/x", "anybody", "steady")


def latencies(values: list[float]) -> Latencies:
    told = Latencies()
    for value in values:
        told.add(value)
    return told


@settings(max_examples=30)
@given(st.lists(SECONDS, min_size=1, max_size=200), st.sampled_from([50.0, 95.0, 99.0, 99.9]))
def test_a_percentile_is_right_to_three_figures(values: list[float], percent: float) -> None:
    exact = float(np.percentile(values, percent, method="inverted_cdf"))

    assert latencies(values).percentile_s(percent) == pytest.approx(exact, rel=1.1e-3, abs=1.5e-6)


@settings(max_examples=20)
@given(st.lists(SECONDS, max_size=50), st.lists(SECONDS, max_size=50), st.floats(0.001, 1000.0))
def test_merged_is_as_if_counted_together(some: list[float], others: list[float], limit: float) -> None:
    together, merged = latencies(some + others), latencies(some)

    merged.merge(Latencies(latencies(others).encode()))

    assert merged.count == together.count
    assert merged.percentile_s(99) == together.percentile_s(99)
    assert merged.within(limit) == together.within(limit)


@settings(max_examples=30)
@given(st.lists(SECONDS, max_size=50), st.floats(0.001, 1000.0))
def test_what_is_within_a_bound_is_counted_to_three_figures(values: list[float], bound: float) -> None:
    within = latencies(values).within(bound)

    assert sum(value <= bound * 0.998 for value in values) <= within <= sum(value <= bound * 1.002 for value in values)


def test_without_values_there_is_no_percentile() -> None:
    assert latencies([]).percentile_s(50) == float("inf")


def test_more_than_an_hour_still_counts() -> None:
    assert latencies([1e9]).percentile_s(100) == pytest.approx(3600.0, rel=1e-3)


def test_a_record_is_the_same_after_its_way_to_another_process() -> None:
    record = Record(shares=1)
    for tally in record.places(STEADY, 3):
        tally.due += 3
        tally.dropped += 1
        tally.add("answered", 0.2, 0.01, "")
        tally.add("failed", 0.3, 0.02, "status 500")
    for tally in record.places(None, 0):
        tally.due += 1
        tally.add("shed", 0.1, 0.0, "status 429")

    copied = from_plain(record.plain())

    assert copied.plain() == record.plain()
    assert copied.tallies[STEADY].failed == {"status 500": 1}
    assert copied.slices[0].shed == 1


def test_records_add_up_by_what_is_asked() -> None:
    one, other = Record(shares=1), Record(shares=2)
    for record, caller in ((one, "a"), (other, "b"), (other, "a")):
        for tally in record.places(Key("/x", caller, "steady"), 0):
            tally.due += 1
            tally.add("answered", 0.5, 0.0, "")

    one.merge(other)

    assert one.shares == 3
    assert one.total(caller="a").latency.count == 2
    assert one.total(route="/x", period="steady").due == one.slices[0].due == 3
    assert one.total(route="/y").due == 0


def test_a_call_of_which_nothing_is_known_is_lost() -> None:
    record = Record()
    for tally in record.places(STEADY, 0):
        tally.due += 2
        tally.add("shed", 0.0, 0.0, "status 429")

    assert record.tallies[STEADY].lost == 1
