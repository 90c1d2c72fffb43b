from hypothesis import given
from hypothesis import strategies as st

from inference.config import Limits
from inference.cost import CostModel
from inference.lane import Lane
from inference.request import Entry, Shape
from inference.selection import select
from tests.fakes import entries, entry


def padded_lane(*calls: list[Entry]) -> Lane:
    """A batch costs 10 ms and 0.1 ms a token."""
    lane = Lane(packed=False, cost=CostModel())
    for tokens, sequences in [(1, 1), (10, 1), (100, 10), (1000, 10), (1000, 100), (4000, 40)] * 20:
        lane.cost.observe(Shape(tokens, sequences, tokens * tokens // sequences), 0.01 + 1e-4 * tokens)
    for call in calls:
        lane.waiting.add(call, token_s=0.0)
    return lane


def limits(*, budget: int = 1000, window: int = 1024) -> Limits:
    return Limits(max_batch_tokens=budget, latency_target_s=1e3, window=window)


def chosen(lane: Lane, limits: Limits, now: float = 0.0) -> list[Entry]:
    return select(lane, limits, now, None).chosen


def test_lower_classes_fill_up_what_the_higher_leave() -> None:
    high, low = entries(20, 18, priority=1), entries(19, 20, 400, 17)
    lane = padded_lane(high, low)

    batch = chosen(lane, limits())

    assert set(batch) == {*high, low[0], low[1], low[3]}


def test_lower_classes_never_take_the_place_of_a_higher() -> None:
    high, low = entries(20, 12, 12, priority=1), entries(20, 20, 20)
    lane = padded_lane(high, low)

    batch = chosen(lane, limits(budget=60))

    assert set(batch) == set(high)


def test_what_fills_up_is_never_longer_than_the_rest() -> None:
    high, low = entries(20, 20, priority=1), entries(21, 5)
    lane = padded_lane(high, low)

    assert not {low[0]} & set(chosen(lane, limits()))


def test_what_would_make_a_real_token_dearer_does_not_fill_up() -> None:
    high, low = entries(*[400] * 20, priority=1), entries(5)
    lane = padded_lane(high, low)

    assert set(chosen(lane, limits(budget=100_000))) == set(high)


def test_lower_classes_are_seen_behind_more_of_a_higher_than_the_window() -> None:
    high, low = [*entries(20, *[400] * 30, priority=1)], entries(20, 20)
    lane = padded_lane(high, low)

    batch = chosen(lane, limits(window=8, budget=100))

    assert set(batch) == {high[0], *low}


def test_nobody_is_made_late_by_what_fills_up() -> None:
    high, low = entries(20, deadline=0.0125, priority=1), entries(20, 20)
    lane = padded_lane(high, low)

    assert chosen(lane, limits()) == high


def test_who_would_be_late_does_not_fill_up() -> None:
    high, low = entries(20, priority=1), [entry(20, deadline=0.013), entry(20)]
    lane = padded_lane(high, [low[0]], [low[1]])

    assert set(chosen(lane, limits())) == {*high, low[1]}


lengths = st.lists(st.integers(1, 512), max_size=40)


@given(lengths.filter(bool), lengths, st.integers(1, 4000))
def test_filling_up_adds_to_a_batch_and_makes_no_real_token_dearer(
    high: list[int], low: list[int], budget: int
) -> None:
    members, fillers = entries(*high, priority=1), entries(*low)
    without, beside = padded_lane(members), padded_lane(members, fillers)

    alone, filled = chosen(without, limits(budget=budget)), chosen(beside, limits(budget=budget))

    def price(batch: list[Entry]) -> float:
        tokens = [item.tokens for item in batch]
        return beside.cost.seconds(beside.shape(tokens)) / sum(tokens)

    assert filled[: len(alone)] == alone
    assert {item.call.priority for item in filled[len(alone) :]} <= {0}
    assert max(item.tokens for item in filled) == max(item.tokens for item in alone)
    assert price(filled) <= price(alone) * (1 + 1e-9)
    assert len(filled) == 1 or len(filled) * max(item.tokens for item in filled) <= budget
