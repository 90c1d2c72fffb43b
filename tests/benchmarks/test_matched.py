"""Tuning another metric to given GPU-hours: the hours are met, and the doubt is the other metric's gain."""

import pytest

from benchmarks.autoscale.matched import Spent, matched

TARGETS = [1.0, 10.0, 100.0]


def smooth(target: float) -> Spent:
    return Spent(target, gpu_hours=10.0 / target, inside=min(1.0, 2.0 / target), turns=0)


def in_steps(target: float) -> Spent:
    return Spent(target, 4.0, 0.9, turns=1) if target < 30.0 else Spent(target, 2.0, 0.5, turns=0)


def flapping(target: float) -> Spent:
    """Down and up again: it spends 3 hours twice, and better the second time."""
    if target < 3.0:
        return Spent(target, 4.0, 0.5, turns=9)
    return Spent(target, 2.0, 0.5, turns=9) if target < 30.0 else Spent(target, 4.0, 0.9, turns=9)


def test_a_target_is_found_that_spends_just_so_much() -> None:
    found = matched(smooth, TARGETS, 4.0)

    assert found.target == pytest.approx(2.5, rel=0.05)
    assert found.inside == pytest.approx(0.8, rel=0.01)


def test_where_hours_jump_it_is_interpolated_between_the_targets_around() -> None:
    found = matched(in_steps, TARGETS, 3.5)

    assert found.gpu_hours == 3.5
    assert found.inside == pytest.approx(0.8)
    assert found.turns == 1


def test_of_several_crossings_the_best_counts() -> None:
    assert matched(flapping, TARGETS, 3.0).inside == pytest.approx(0.7)


def test_what_no_target_spends_is_compared_at_the_nearest() -> None:
    assert matched(smooth, TARGETS, 50.0).gpu_hours == 10.0
    assert matched(smooth, TARGETS, 0.01).gpu_hours == 0.1
