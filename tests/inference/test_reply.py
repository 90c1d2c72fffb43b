import asyncio
import gc
from collections.abc import Iterator

import numpy as np
import pytest

from inference.errors import RuntimeFailed, Unavailable
from inference.reply import Pending, Slot
from inference.request import Result, Timings


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def result(number: int) -> Result:
    return Result(np.float32([number]), Timings(0.0, 0.0))


def test_a_call_is_done_when_all_its_results_are_there_in_their_order(loop: asyncio.AbstractEventLoop) -> None:
    pending, one, two = Pending(loop, 2), result(1), result(2)

    Slot(pending, 1).succeed(two)
    before = pending.future.done()
    Slot(pending, 0).succeed(one)

    assert not before
    assert pending.future.result() == [one, two]


def test_a_result_that_comes_twice_counts_once(loop: asyncio.AbstractEventLoop) -> None:
    pending, first = Pending(loop, 2), result(1)

    Slot(pending, 0).succeed(first)
    Slot(pending, 0).succeed(result(2))
    before = pending.future.done()
    Slot(pending, 1).succeed(first)

    assert not before
    assert pending.future.result() == [first, first]


def test_the_first_failure_ends_the_call_and_what_comes_later_is_dropped(loop: asyncio.AbstractEventLoop) -> None:
    pending, error = Pending(loop, 2), RuntimeFailed("no")

    Slot(pending, 0).fail(error)
    Slot(pending, 0).fail(Unavailable("later"))
    Slot(pending, 0).succeed(result(1))
    Slot(pending, 1).succeed(result(2))

    assert pending.future.exception() is error


def test_an_answered_call_does_not_fail_any_more(loop: asyncio.AbstractEventLoop) -> None:
    pending = Pending(loop, 1)

    Slot(pending, 0).succeed(result(1))
    Slot(pending, 0).fail(RuntimeFailed("late"))

    assert pending.future.exception() is None


def test_a_caller_that_has_gone_is_told_nothing(loop: asyncio.AbstractEventLoop) -> None:
    pending = Pending(loop, 1)

    pending.future.cancel()
    Slot(pending, 0).succeed(result(1))
    Slot(pending, 0).fail(RuntimeFailed("late"))

    assert pending.future.cancelled()


def test_a_failure_that_nobody_waits_for_is_no_news_for_the_log(loop: asyncio.AbstractEventLoop) -> None:
    news: list[object] = []
    loop.set_exception_handler(lambda loop, context: news.append(context))
    pending = Pending(loop, 1)

    Slot(pending, 0).fail(RuntimeFailed("no"))
    del pending
    gc.collect()

    assert news == []
