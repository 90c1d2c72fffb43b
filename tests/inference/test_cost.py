import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.cost import CostModel
from inference.request import Shape, packed_shape, padded_shape

shapes = st.lists(st.integers(1, 512), min_size=1, max_size=64).map(packed_shape)


def truth(shape: Shape) -> float:
    return 0.004 + 2e-5 * shape.tokens + 1e-4 * shape.sequences + 3e-9 * shape.squares


def test_a_cost_of_this_form_is_learned_from_few_batches() -> None:
    cost = CostModel()
    seen = [packed_shape([length] * count) for length in (4, 32, 128, 512) for count in (1, 8, 30)]

    for shape in seen * 3:
        cost.observe(shape, truth(shape))

    for shape in [packed_shape([60] * 10), packed_shape([500, 3, 70])]:
        assert cost.seconds(shape) == pytest.approx(truth(shape), rel=0.05)


def test_one_stall_hardly_moves_a_trusted_prediction() -> None:
    cost = CostModel()
    shape = packed_shape([30] * 10)
    for _ in range(20):
        cost.observe(shape, 0.02)

    cost.observe(shape, 30.0)

    assert cost.seconds(shape) < 0.03


def test_a_device_that_slows_down_for_good_is_followed() -> None:
    cost = CostModel()
    shape = packed_shape([30] * 10)
    for _ in range(20):
        cost.observe(shape, 0.02)

    for _ in range(300):
        cost.observe(shape, 0.04)

    assert cost.seconds(shape) == pytest.approx(0.04, rel=0.1)


@given(st.lists(st.tuples(shapes, st.floats(1e-4, 10.0)), max_size=30), shapes, shapes)
def test_more_work_never_costs_less(observed: list[tuple[Shape, float]], one: Shape, other: Shape) -> None:
    cost = CostModel()

    for shape, seconds in observed:
        cost.observe(shape, seconds)

    assert 0.0 <= cost.seconds(one) <= cost.seconds(one + other)


def test_a_backlog_pays_the_base_of_every_batch() -> None:
    cost = CostModel()
    work = packed_shape([100] * 10)

    in_one, in_ten = cost.backlog_s(work, 1000, 1e3), cost.backlog_s(work, 100, 1e3)
    by_time = cost.backlog_s(work, 1e9, cost.seconds(packed_shape([100])))

    assert in_ten - in_one == pytest.approx(9 * cost.seconds(Shape()))
    assert by_time == pytest.approx(in_ten)
    assert cost.backlog_s(Shape(), 100, 1e3) == 0.0


def test_padding_is_what_a_padded_batch_pays() -> None:
    assert packed_shape([2, 8]) == Shape(tokens=10, sequences=2, squares=68)
    assert padded_shape([2, 8]) == Shape(tokens=16, sequences=2, squares=128)


@given(st.integers(1, 256), st.integers(1, 64), st.floats(1e-3, 1.0), st.integers(1, 5), shapes)
def test_few_batches_of_one_kind_do_not_make_other_predictions_absurd(
    length: int, count: int, seconds: float, times: int, other: Shape
) -> None:
    cost, seen = CostModel(), packed_shape([length] * count)
    guess = CostModel().seconds(other)
    for _ in range(times):
        cost.observe(seen, seconds)

    scale = max(seconds / CostModel().seconds(seen), 1.0)

    assert cost.seconds(seen) == pytest.approx(seconds, rel=0.05)
    assert cost.seconds(other) <= 20 * guess * scale + seconds


def test_calls_of_one_kind_do_not_make_it_forget_the_others() -> None:
    cost, chance = CostModel(), random.Random(0)
    for length in (4, 16, 64, 256, 512):
        for count in (1, 4, 16):
            cost.observe(packed_shape([length] * count), truth(packed_shape([length] * count)))
    cost.settle()

    for _ in range(5000):
        shape = packed_shape([chance.randint(2, 10) for _ in range(chance.randint(1, 6))])
        cost.observe(shape, truth(shape) * chance.lognormvariate(0, 0.2))

    long = packed_shape([512])
    assert cost.seconds(long) == pytest.approx(truth(long), rel=0.5)


def test_bytes_are_learned_like_seconds_once_enough_batches_told_them() -> None:
    cost = CostModel()
    seen = [packed_shape([length] * count) for length in (4, 32, 128, 512) for count in (1, 8, 30)]
    unknown = packed_shape([60] * 10)
    cost.observe(unknown, 0.1, peak_bytes=20_000_000)

    before = cost.most_bytes(unknown)
    for shape in seen * 30:
        cost.observe(shape, truth(shape), peak_bytes=10_000_000 + 20_000 * shape.tokens + 4 * shape.squares)

    least = 10_000_000 + 20_000 * 600 + 4 * 36_000
    told = cost.most_bytes(unknown)
    assert before is None
    assert told is not None and least * 0.99 <= told <= least * 1.2


def test_a_device_that_tells_no_bytes_has_none_predicted() -> None:
    cost = CostModel()
    for _ in range(100):
        cost.observe(packed_shape([10]), 0.1)

    assert cost.most_bytes(packed_shape([10])) is None


def test_the_least_share_follows_the_errors_and_is_nothing_before_they_are_known() -> None:
    chance, shape = random.Random(0), packed_shape([30] * 10)
    new, exact, noisy = CostModel(), CostModel(), CostModel()
    for _ in range(300):
        exact.observe(shape, 0.02)
        noisy.observe(shape, 0.02 * chance.lognormvariate(0, 0.2))

    assert new.least_share() == 0.0
    assert exact.least_share() > 0.95
    assert 0.5 < noisy.least_share() < 0.75


@given(st.lists(st.tuples(shapes, st.floats(1e-4, 10.0), st.integers(0, 10**11)), max_size=30), shapes)
def test_bounds_are_bounds_whatever_was_observed(observed: list[tuple[Shape, float, int]], shape: Shape) -> None:
    cost = CostModel()
    for seen, seconds, peak_bytes in observed:
        cost.observe(seen, seconds, peak_bytes)

    most = cost.most_bytes(shape)

    assert 0.0 <= cost.least_share() <= 1.0
    assert most is None or most >= 0.0


@given(shapes, st.integers(1, 50))
def test_a_share_of_endless_work_is_linear_and_never_dearer_than_the_work_alone(shape: Shape, times: int) -> None:
    cost = taught()
    many = Shape(times * shape.tokens, times * shape.sequences, times * shape.squares)

    share_s = cost.share_s(shape, max_tokens=4096, max_s=0.1)

    assert cost.share_s(many, max_tokens=4096, max_s=0.1) == pytest.approx(times * share_s)
    assert share_s <= cost.backlog_s(shape, max_tokens=4096, max_s=0.1)


def test_a_share_pays_its_part_of_the_base_of_full_batches() -> None:
    cost = taught()
    full = packed_shape([50] * 8)  # 400 tokens

    share_s = cost.share_s(packed_shape([50]), max_tokens=400, max_s=1e3)

    assert share_s == pytest.approx(cost.seconds(full) / 8)
    assert cost.share_s(Shape(), max_tokens=400, max_s=1e3) == 0.0


def test_a_curve_that_was_measured_before_is_what_it_predicts_by() -> None:
    cost = taught()

    again = CostModel(cost.curve)

    assert again.curve == cost.curve
    assert again.seconds(packed_shape([40] * 5)) == cost.seconds(packed_shape([40] * 5))


def taught() -> CostModel:
    cost = CostModel()
    for length in (4, 32, 128, 512):
        for count in (1, 8, 30):
            for _ in range(3):
                cost.observe(packed_shape([length] * count), truth(packed_shape([length] * count)))
    return cost
