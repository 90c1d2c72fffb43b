import random
import sys
from collections.abc import Callable
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.request import Entry
from inference.waiting import AGING_S, Waiting
from tests.fakes import entries, entry


def put(subject: Waiting, *calls: list[Entry]) -> None:
    for call in calls:
        subject.add(call, token_s=0.001)


def order(subject: Waiting) -> list[Entry]:
    return list(subject.ordered())


def serve(subject: Waiting, tokens: int) -> list[Entry]:
    """Serve in order until so many tokens have been served."""
    served: list[Entry] = []
    while sum(item.tokens for item in served) < tokens:
        served.append(next(iter(subject.ordered())))
        subject.serve(served[-1])
    return served


def test_inside_a_caller_the_earliest_deadline_is_first() -> None:
    subject = Waiting()
    late, early = entry(deadline=20.0), entry(deadline=10.0)
    put(subject, [late], [early])

    assert order(subject) == [early, late]


def test_of_equal_deadlines_the_first_to_arrive_is_first() -> None:
    subject = Waiting()
    calls = [entry(deadline=10.0) for _ in range(5)]
    put(subject, *([call] for call in calls))

    assert order(subject) == calls


def test_a_large_call_lets_a_small_one_of_the_same_caller_through() -> None:
    subject = Waiting()
    large = entries(*[10] * 100, deadline=30.0)
    small = entry(10, deadline=30.1)
    put(subject, large, [small])

    position = order(subject).index(small)

    assert 5 <= position <= 15


def test_callers_take_turns_by_tokens() -> None:
    subject = Waiting()
    put(subject, entries(*[30] * 4, caller="a"), entries(*[10] * 12, caller="b"))

    served = [(item.call.caller, item.tokens) for item in order(subject)]

    for count in range(1, len(served)):
        tokens = {name: sum(n for who, n in served[:count] if who == name) for name in "ab"}
        assert abs(tokens["a"] - tokens["b"]) <= 30 or 120 in tokens.values()


def test_a_newcomer_gets_no_credit_for_the_time_it_was_away() -> None:
    subject = Waiting()
    put(subject, entries(*[10] * 20, caller="old"))
    serve(subject, 100)
    put(subject, entries(*[10] * 5, caller="new"))

    callers = [item.call.caller for item in order(subject)]

    assert 3 <= callers[:6].count("new") <= 4


def test_who_leaves_and_comes_back_is_not_first_again() -> None:
    subject = Waiting()
    put(subject, entries(*[10] * 10, caller="steady"), entries(50, caller="greedy"))
    served = serve(subject, 60)
    put(subject, entries(10, caller="greedy"))

    callers = [item.call.caller for item in order(subject)]

    assert {item.call.caller for item in served} == {"steady", "greedy"}
    assert callers.index("greedy") >= 4


def test_looking_at_the_order_gives_nobody_a_turn() -> None:
    subject = Waiting()
    put(subject, entries(*[10] * 50, caller="flood"))
    serve(subject, 20)
    for _ in range(5):
        order(subject)
    put(subject, entries(*[10] * 2, caller="light", arrived=1.0))

    callers = [item.call.caller for item in order(subject)]

    assert callers[:2].count("light") >= 1
    assert callers[:4].count("light") == 2


def test_a_higher_class_goes_first() -> None:
    subject = Waiting()
    low, high = entry(), entry(priority=1, arrived=1.0)
    put(subject, [low], [high])

    assert order(subject) == [high, low]


def test_an_entry_that_waited_long_enough_overtakes_a_higher_class() -> None:
    subject = Waiting()
    low = entry(arrived=0.0)
    soon, later = entry(priority=1, arrived=AGING_S - 0.1), entry(priority=1, arrived=AGING_S + 0.1)
    put(subject, [low], [soon], [later])

    assert order(subject) == [soon, low, later]


def test_the_load_is_what_waits() -> None:
    subject = Waiting()
    one, two = entries(10, 20)
    put(subject, [one, two])

    subject.remove(one)

    assert (subject.load.tokens, subject.load.sequences, subject.load.squares) == (20, 1, 400)
    assert subject.oldest == 0.0
    assert one not in subject


def test_tokens_ahead_are_those_that_run_before() -> None:
    subject = Waiting()
    put(
        subject,
        entries(*[10] * 100, caller="flood"),
        entries(10, caller="me", deadline=5.0),
        entries(10, caller="me", deadline=50.0),
        entries(7, caller="vip", priority=1),
    )

    assert subject.tokens_ahead(0, "me", 10.0, 10) == 7 + 10 + 20
    assert subject.tokens_ahead(1, "me", 10.0, 10) == 7
    assert subject.tokens_ahead(0, "flood", 2e6, 10) == 7 + 1000 + 20
    assert subject.tokens_ahead(-1, "new", 0.0, 10) == 1027


actions = st.lists(st.tuples(st.sampled_from(["add", "take", "remove"]), st.integers(1, 50)), max_size=60)


@given(actions, st.randoms(use_true_random=False))
def test_nothing_is_lost_or_served_twice(script: list[tuple[str, int]], chance: random.Random) -> None:
    subject = Waiting()
    inside: set[Entry] = set()
    for moment, (what, number) in enumerate(script):
        if what == "add":
            lengths = [chance.randint(1, 50) for _ in range(1 + number // 10)]
            call = entries(
                *lengths,
                arrived=float(moment),
                deadline=moment + chance.random() * 10,
                caller=chance.choice("abc"),
                priority=chance.randint(-1, 1),
            )
            put(subject, call)
            inside |= set(call)
        elif what == "remove" and inside:
            gone = chance.choice(sorted(inside, key=lambda item: (item.arrived, item.request.tokens[-1])))
            subject.remove(gone)
            inside.discard(gone)
        else:
            seen = order(subject)
            assert len(seen) == len(set(seen))
            assert set(seen) == inside
            for item in [item for item in seen if item.tokens <= number]:
                subject.serve(item)
                inside.discard(item)

        assert len(subject) == len(inside)
        assert subject.load.tokens == sum(item.tokens for item in inside)

    assert set(order(subject)) == inside


def test_a_busy_higher_class_does_not_end_the_turns_in_a_lower_one() -> None:
    subject = Waiting()
    put(subject, entries(*[10] * 1000, caller="flood"), entries(10, caller="light", arrived=0.1))
    put(subject, entries(10, 10, 10, caller="vip", priority=1))

    callers = [item.call.caller for item in order(subject)]

    assert callers[:3] == ["vip"] * 3
    assert callers.index("light") <= 4


def test_served_entries_do_not_pile_up_in_the_order() -> None:
    subject = Waiting()
    put(subject, entries(*[1] * 2000))
    for _ in range(1500):
        subject.serve(next(iter(subject.ordered())))

    assert len(order(subject)) == 500


class Name(str):
    """A caller's name that makes each look at it a step."""

    __slots__ = ()

    def __hash__(self) -> int:
        return super().__hash__()


def steps(action: Callable[[], object]) -> int:
    """How many calls, of Python's and of C's functions, an action makes."""
    count = 0

    def count_one(frame: object, event: str, what: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(count_one)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def crowd(callers: int) -> Waiting:
    subject = Waiting()
    for number in range(callers):
        put(subject, entries(10, 10, caller=Name(number)))
    return subject


@pytest.mark.parametrize("callers", [1000, 10_000])
def test_a_batch_costs_as_many_steps_whatever_the_number_of_callers(callers: int) -> None:
    few, many = crowd(100), crowd(callers)

    def take(subject: Waiting) -> None:
        for item in list(islice(subject.ordered(), 50)):
            subject.serve(item)

    first, later = [[steps(lambda subject=subject: take(subject)) for subject in (few, many)] for _ in range(2)]

    assert first[1] < 2 * first[0]
    assert later[1] < 2 * later[0]


def test_a_newcomer_costs_as_many_steps_whatever_the_number_of_callers() -> None:
    subject = crowd(10_000)

    costs = [steps(lambda name=name: put(subject, entries(10, caller=name))) for name in ("x", "y", "z")]

    assert max(costs) < 1000


def test_a_hastened_entry_runs_by_its_new_rank_and_is_there_once() -> None:
    subject = Waiting()
    large = entries(*[10] * 100, deadline=30.0)
    put(subject, large)

    subject.hasten(large[90], 30.0005)

    assert order(subject) == [large[0], large[90], *large[1:90], *large[91:]]
    assert (len(subject), subject.load.tokens, subject.tokens_of("")) == (100, 1000, 1000)


def test_nobody_is_put_back_by_a_later_call() -> None:
    subject = Waiting()
    first, second = entry(deadline=10.0), entry(deadline=20.0)
    put(subject, [first], [second])

    subject.hasten(first, 30.0)

    assert order(subject) == [first, second]


def test_the_last_entry_of_a_caller_keeps_its_turn_when_it_is_hastened() -> None:
    subject = Waiting()
    put(subject, entries(*[10] * 20, caller="flood"), [light := entry(10, caller="light")])
    serve(subject, 100)
    put(subject, [behind := entry(10, caller="light", deadline=50.0)])
    before = order(subject).index(behind)

    subject.hasten(behind, 1.0)

    assert light not in subject
    assert order(subject).index(behind) == before


@given(st.lists(st.tuples(st.integers(0, 29), st.floats(0.0, 100.0)), max_size=20))
def test_hastening_moves_nobody_else_and_loses_nobody(moves: list[tuple[int, float]]) -> None:
    subject = Waiting()
    items = [entry(10, deadline=float(number)) for number in range(10, 40)]
    put(subject, *([item] for item in items))
    ranks = {item: item.deadline for item in items}

    for index, rank in moves:
        subject.hasten(items[index], rank)
        ranks[items[index]] = min(rank, ranks[items[index]])

    assert [ranks[item] for item in order(subject)] == sorted(ranks.values())
    assert subject.tokens_ahead(0, "", 1e6, 10) == 300


def test_below_are_the_lower_classes_the_highest_of_them_first() -> None:
    subject = Waiting()
    top, middle, bottom = entry(priority=2), entry(priority=1), entry(priority=-1)
    put(subject, [bottom], [middle], [top])

    assert list(subject.below(2)) == [middle, bottom]
    assert list(subject.below(-1)) == []
