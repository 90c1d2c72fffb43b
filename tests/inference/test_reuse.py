import asyncio
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from inference.errors import DeadlineExceeded, DeviceLost, InferenceError, OutOfMemory, RuntimeFailed
from inference.reply import Pending
from inference.request import Call, Entry, Request, Result, Timings
from inference.reuse import Plan, Reuse, digest
from tests.fakes import FakeClock, call, request

RESULT = Result(np.zeros(100, np.float32), Timings(1.0, 2.0))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def board(
    subject: Reuse, owner: Call, loop: asyncio.AbstractEventLoop, gone: Sequence[Entry] = ()
) -> tuple[Pending, Plan, list[Entry]]:
    """Plan a call and admit what is fresh."""
    pending = Pending(loop, len(owner.requests))
    plan = subject.plan(owner, subject.keys(owner), pending, lambda entry: entry not in gone)
    entries = [Entry(flight.request, owner, flight, 0.0) for flight in plan.fresh]
    subject.begin(plan, entries, owner.deadline)
    return pending, plan, entries


def same(item: Request) -> Request:
    return Request(item.model, item.tokens.copy())


def test_the_digest_names_the_model_and_the_tokens() -> None:
    item = request()

    assert digest(item) == digest(same(item))
    assert len({digest(item), digest(request()), digest(Request("other", item.tokens))}) == 3


def test_the_same_input_in_flight_is_computed_once(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(0, 30.0, FakeClock()), request()
    first, _, entries = board(subject, call(item), loop)
    second, _, nothing = board(subject, call(same(item), same(item)), loop)

    entries[0].reply.succeed(RESULT)

    assert nothing == []
    assert first.future.result() == [RESULT]
    assert second.future.result() == [RESULT, RESULT]


def test_the_same_input_twice_in_one_call_is_computed_once(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(0, 30.0, FakeClock()), request()

    pending, _, entries = board(subject, call(item, same(item)), loop)
    entries[0].reply.succeed(RESULT)

    assert len(entries) == 1
    assert len(pending.future.result()) == 2


def test_another_caller_shares_nothing(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(10**6, 30.0, FakeClock()), request()
    _, _, entries = board(subject, call(item, caller="a"), loop)
    entries[0].reply.succeed(RESULT)

    _, _, fresh = board(subject, call(same(item), caller="b"), loop)

    assert len(fresh) == 1


def test_a_flight_of_a_lower_class_is_not_joined(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(0, 30.0, FakeClock()), request()
    board(subject, call(item), loop)

    _, _, fresh = board(subject, call(same(item), priority=1), loop)

    assert len(fresh) == 1


def test_an_entry_is_not_given_up_while_a_later_call_waits_for_it(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(0, 30.0, FakeClock()), request()
    _, _, entries = board(subject, call(item, deadline=10.0), loop)

    board(subject, call(same(item), deadline=20.0), loop)

    assert entries[0].deadline == 20.0


def test_a_caller_that_goes_does_not_cancel_what_another_waits_for(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(0, 30.0, FakeClock()), request()
    _, first_plan, entries = board(subject, call(item), loop)
    second, second_plan, _ = board(subject, call(same(item)), loop)

    after_first = subject.end(first_plan)
    entries[0].reply.succeed(RESULT)
    after_second = subject.end(second_plan)

    assert after_first == []
    assert second.future.result() == [RESULT]
    assert after_second == []


@pytest.mark.parametrize("error", [None, RuntimeFailed("no")], ids=["answered", "failed"])
def test_a_flight_that_has_landed_leaves_nothing_to_cancel(
    loop: asyncio.AbstractEventLoop, error: InferenceError | None
) -> None:
    subject = Reuse(0, 30.0, FakeClock())
    _, plan, (landed, under_way) = board(subject, call(request(), request()), loop)

    landed.reply.fail(error) if error else landed.reply.succeed(RESULT)
    unwanted = subject.end(plan)

    assert unwanted == [under_way]


def test_what_nobody_waits_for_is_cancelled_and_not_joined_again(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(0, 30.0, FakeClock()), request()
    _, plan, entries = board(subject, call(item), loop)

    unwanted = subject.end(plan)
    _, _, fresh = board(subject, call(same(item)), loop)

    assert unwanted == entries
    assert len(fresh) == 1


def test_nothing_is_kept_unless_asked_for(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(0, 30.0, FakeClock()), request()
    _, _, entries = board(subject, call(item), loop)
    entries[0].reply.succeed(RESULT)

    _, _, fresh = board(subject, call(same(item)), loop)

    assert len(fresh) == 1


def test_a_kept_answer_costs_no_time(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(10**6, 30.0, FakeClock()), request()
    _, _, entries = board(subject, call(item), loop)
    entries[0].reply.succeed(RESULT)

    pending, _, fresh = board(subject, call(same(item)), loop)

    assert fresh == []
    assert pending.future.result()[0].timings == Timings(0.0, 0.0)
    assert np.array_equal(pending.future.result()[0].row, RESULT.row)


def test_the_oldest_answers_go_when_the_bytes_are_used_up(loop: asyncio.AbstractEventLoop) -> None:
    subject, items = Reuse(1500, 30.0, FakeClock()), [request() for _ in range(3)]
    for item in items:  # 700 bytes each
        _, _, entries = board(subject, call(item), loop)
        entries[0].reply.succeed(RESULT)

    fresh = [len(board(subject, call(same(item)), loop)[2]) for item in reversed(items)]

    assert fresh == [0, 0, 1]


def test_an_input_that_fails_twice_is_not_tried_again_for_a_while(loop: asyncio.AbstractEventLoop) -> None:
    clock = FakeClock()
    subject, item = Reuse(0, 30.0, clock), request()
    for _ in range(2):
        _, _, entries = board(subject, call(same(item)), loop)
        entries[0].reply.fail(RuntimeFailed("no"))

    with pytest.raises(RuntimeFailed, match="a moment ago"):
        board(subject, call(same(item)), loop)
    _, _, of_another_caller = board(subject, call(same(item), caller="b"), loop)
    clock.now = 31.0
    _, _, later = board(subject, call(same(item)), loop)

    assert (len(of_another_caller), len(later)) == (1, 1)


@pytest.mark.parametrize("error", [OutOfMemory("no"), DeadlineExceeded("late"), DeviceLost("gone")])
def test_what_is_no_fault_of_the_input_does_not_count_against_it(
    loop: asyncio.AbstractEventLoop, error: InferenceError
) -> None:
    subject, item = Reuse(0, 30.0, FakeClock()), request()
    for _ in range(5):
        _, _, entries = board(subject, call(same(item)), loop)
        entries[0].reply.fail(error)

    _, _, fresh = board(subject, call(same(item)), loop)

    assert len(fresh) == 1


def test_failures_are_not_remembered_without_end(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(0, 30.0, FakeClock()), request()
    for again in [item, item, *(request() for _ in range(10_000))]:
        _, _, entries = board(subject, call(again), loop)
        entries[0].reply.fail(RuntimeFailed("no"))

    _, _, fresh = board(subject, call(item), loop)

    assert len(fresh) == 1


def test_a_flight_whose_entry_was_given_up_is_not_joined(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(0, 30.0, FakeClock()), request()
    _, _, given_up = board(subject, call(item), loop)

    _, _, fresh = board(subject, call(same(item), deadline=2e9), loop, gone=given_up)

    assert len(fresh) == 1


def test_a_flight_that_could_wait_longer_is_not_joined(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(0, 30.0, FakeClock()), request()
    board(subject, call(item, deadline=300.0), loop)

    _, _, fresh = board(subject, call(same(item), deadline=0.3), loop)

    assert len(fresh) == 1


def test_kept_answers_do_not_hold_the_batch_they_came_from(loop: asyncio.AbstractEventLoop) -> None:
    subject, item = Reuse(10**6, 30.0, FakeClock()), request()
    batch = np.zeros((1000, 100), np.float32)
    _, _, entries = board(subject, call(item), loop)
    entries[0].reply.succeed(Result(batch[3], Timings(0.0, 0.0)))

    pending, _, _ = board(subject, call(same(item)), loop)

    assert pending.future.result()[0].row.base is None
