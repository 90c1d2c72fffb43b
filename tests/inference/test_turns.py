import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

import pytest

from inference.turns import Turns
from tests.controls.guard import ROOT

pytestmark = pytest.mark.anyio

BULK = 500
PIECE_S = 0.02


async def bulk(turns: Turns, caller: str, began: list[float]) -> None:
    """One piece of work that keeps the loop."""
    with turns.here(caller, BULK):
        await turns.answer(caller, BULK, 60.0)
        began.append(time.monotonic())
        time.sleep(PIECE_S)


async def light(passed: list[float]) -> None:
    """Somebody who needs the loop again and again."""
    while True:
        passed.append(time.monotonic())
        await asyncio.sleep(0)


async def pauses(turns: Turns, callers: list[str]) -> list[float]:
    """How long the loop was free between the pieces of these callers, who all come at once."""
    began: list[float] = []
    await asyncio.gather(*(bulk(turns, caller, began) for caller in callers))
    return [after - before - PIECE_S for before, after in pairwise(began)]


async def test_the_loop_goes_round_between_two_pieces() -> None:
    turns, passed, began = Turns(), list[float](), list[float]()
    other = asyncio.ensure_future(light(passed))
    await asyncio.gather(*(bulk(turns, "a", began) for _ in range(5)))
    other.cancel()

    for before, after in pairwise(began):
        assert any(before < moment < after for moment in passed)


async def test_while_another_caller_has_a_light_call_here_the_loop_is_free_four_times_as_long_as_one_took() -> None:
    turns = Turns()

    with turns.here("light", 1):
        waited = await pauses(turns, ["bulk"] * 4)

    assert min(waited) > 3.5 * PIECE_S


@pytest.mark.parametrize("present", [[], [("bulk", 1)], [("another bulk", BULK)]])
async def test_bulk_is_not_held_up_by_itself_or_by_other_bulk(present: list[tuple[str, int]]) -> None:
    turns = Turns()
    with ExitStack() as stack:
        for caller, inputs in present:
            stack.enter_context(turns.here(caller, inputs))

        waited = await pauses(turns, ["bulk"] * 4)

    assert sorted(waited)[1] < 0.5 * PIECE_S


async def test_who_has_gone_holds_nobody_up() -> None:
    turns = Turns()
    with turns.here("light", 1), turns.here("light", 1):
        pass

    waited = await pauses(turns, ["bulk"] * 4)

    assert sorted(waited)[1] < 0.5 * PIECE_S


class Work:
    """What a thread does until the test lets it end."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()
        self._name = name
        self._log = log

    def __call__(self) -> str:
        self._log.append(self._name)
        self.began.set()
        assert self.may_end.wait(30), "nobody let it end"
        return self._name


async def rounds(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("inputs", "characters", "waits"), [(64, 16_384, False), (65, 0, True), (1, 16_385, True)])
async def test_only_what_is_heavy_waits_for_its_turn(inputs: int, characters: int, waits: bool) -> None:
    turns, log = Turns(), list[str]()
    first, second = Work("first", log), Work("second", log)
    holder = asyncio.ensure_future(turns.work("bulk", BULK, 0, first))
    await asyncio.to_thread(first.began.wait, 10)
    asked = asyncio.ensure_future(turns.work("other", inputs, characters, second))
    began_at_once = await asyncio.to_thread(second.began.wait, 0.1 if waits else 10)

    assert began_at_once is not waits
    first.may_end.set()
    second.may_end.set()
    assert await asyncio.gather(holder, asked) == ["first", "second"]


async def test_callers_take_turns_however_much_one_of_them_asks() -> None:
    turns, log = Turns(), list[str]()
    first = Work("crowd", log)
    waiting = [asyncio.ensure_future(turns.work("crowd", BULK, 0, first))]
    await asyncio.to_thread(first.began.wait, 10)
    for name in ("crowd", "crowd", "crowd", "other", "other"):
        work = Work(name, log)
        work.may_end.set()
        waiting.append(asyncio.ensure_future(turns.work(name, BULK, 0, work)))
        await rounds()
    first.may_end.set()
    await asyncio.gather(*waiting)

    assert log == ["crowd", "crowd", "other", "crowd", "other", "crowd"]


async def test_a_turn_lasts_until_its_thread_has_ended_whoever_has_gone() -> None:
    turns, log = Turns(), list[str]()
    gone, left, last = Work("gone", log), Work("left", log), Work("last", log)
    calls = [asyncio.ensure_future(turns.work("a", BULK, 0, gone))]
    await asyncio.to_thread(gone.began.wait, 10)
    calls += [asyncio.ensure_future(turns.work("b", BULK, 0, work)) for work in (left, last)]
    await rounds()

    for call in calls[:2]:
        call.cancel()
    await rounds()
    before = list(log)
    gone.may_end.set()
    last.may_end.set()
    told = await calls[2]

    assert all(call.cancelled() for call in calls[:2])
    assert (before, told, log) == (["gone"], "last", ["gone", "last"])


async def test_what_a_caller_that_has_gone_left_running_is_rested_for_too() -> None:
    now, log = [0.0], list[str]()
    turns = Turns(lambda: now[0])
    gone, last = Work("gone", log), Work("last", log)
    last.may_end.set()

    with turns.here("light", 1):
        call = asyncio.ensure_future(turns.work("a", BULK, 0, gone))
        await asyncio.to_thread(gone.began.wait, 10)
        call.cancel()
        await rounds()
        now[0] += 0.02
        gone.may_end.set()
        after = asyncio.ensure_future(turns.work("b", BULK, 0, last))
        await asyncio.sleep(0.04)  # of the 0.08 s that it rests
        before = list(log)

    assert (before, await after) == (["gone"], "last")


async def test_an_answer_does_not_wait_for_what_is_not_computed_yet() -> None:
    turns, log = Turns(), list[str]()
    work = Work("long", log)
    call = asyncio.ensure_future(turns.work("a", BULK, 0, work))
    await asyncio.to_thread(work.began.wait, 10)

    await turns.answer("b", BULK, 10.0)

    work.may_end.set()
    assert await call == "long"


async def test_an_answer_waits_no_longer_than_its_call_may_take() -> None:
    turns = Turns()

    with turns.here("light", 1):
        await turns.answer("a", BULK, 10.0)
        time.sleep(0.15)  # and then a rest of four times as long
        with pytest.raises(TimeoutError):
            await turns.answer("a", BULK, 0.05)

    await turns.answer("a", BULK, 10.0)  # the turn is free


def steps(began: list[float]) -> Iterator[None]:
    """Three steps that keep the loop."""
    for step in range(3):
        if step > 0:
            yield
        began.append(time.monotonic())
        time.sleep(PIECE_S)


async def test_between_the_steps_of_an_answer_the_loop_goes_round() -> None:
    turns, passed, began = Turns(), list[float](), list[float]()
    other = asyncio.ensure_future(light(passed))
    await turns.write("bulk", steps(began), 10.0)
    other.cancel()

    for before, after in pairwise(began):
        assert any(before + PIECE_S < moment < after for moment in passed)


@pytest.mark.parametrize(("caller", "rests"), [("light", True), ("bulk", False)])
async def test_the_steps_of_an_answer_rest_for_light_calls_of_others(caller: str, rests: bool) -> None:
    turns, began = Turns(), list[float]()

    with turns.here(caller, 1):
        await turns.write("bulk", steps(began), 10.0)

    waited = [after - before - PIECE_S for before, after in pairwise(began)]
    assert min(waited) > 3.5 * PIECE_S if rests else min(waited) < 0.5 * PIECE_S


async def test_an_answer_that_is_written_rests_no_more() -> None:
    turns = Turns()

    with turns.here("light", 1):
        await turns.write("bulk", steps([]), 13 * PIECE_S)


async def test_an_answer_is_written_in_its_turn_and_in_its_time() -> None:
    turns, late, first, second = Turns(), list[float](), list[float](), list[float]()

    with turns.here("light", 1), pytest.raises(TimeoutError):
        await turns.write("bulk", steps(late), 1.5 * PIECE_S)
    await asyncio.gather(*(turns.write("bulk", steps(began), 10.0) for began in (first, second)))

    assert (len(late), len(first), len(second)) == (1, 3, 3)
    assert max(first) < min(second)


async def test_a_call_that_goes_on_is_ahead_of_its_callers_others() -> None:
    turns, log = Turns(), list[str]()
    first = Work("first", log)
    waiting = [asyncio.ensure_future(turns.work("a", BULK, 0, first))]
    await asyncio.to_thread(first.began.wait, 10)
    for name, goes_on in (("another", False), ("a later part of first", True)):
        waiting.append(asyncio.ensure_future(turns.work("a", BULK, 0, partial(log.append, name), goes_on=goes_on)))
        await rounds()
    first.may_end.set()
    await asyncio.gather(*waiting)

    assert log == ["first", "a later part of first", "another"]


async def test_a_turn_that_cannot_begin_is_passed_on() -> None:
    turns = Turns()
    turns.close()

    for _ in range(2):
        with pytest.raises(RuntimeError):
            await asyncio.wait_for(turns.work("a", BULK, 0, list), 10)


@pytest.mark.skipif(sys.platform != "linux", reason="only there has a thread a priority of its own")
@pytest.mark.parametrize(("inputs", "behind"), [(1, False), (BULK, True)])
async def test_what_is_heavy_leaves_the_core_to_others(inputs: int, behind: bool) -> None:
    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert (await Turns().work("a", inputs, 0, nice) > nice()) is behind


NICER = """
import asyncio, os, sys
from inference.turns import Turns
from tests.controls.guard import ROOT
os.setpriority(os.PRIO_PROCESS, 0, 15)
os.setuid(65534)
print(asyncio.run(Turns().work("a", 500, 0, lambda: "made")))
"""


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="a user who may not raise a priority is needed")
def test_a_process_of_low_priority_that_may_not_raise_it_does_what_is_heavy_too() -> None:
    ran = subprocess.run([sys.executable, "-c", NICER], cwd=ROOT, capture_output=True, text=True, check=False)

    assert ran.stdout == "made\n", ran.stderr


async def test_what_is_made_next_is_part_of_the_turn() -> None:
    turns, log = Turns(), list[str]()

    async def ask(name: str) -> None:
        await turns.work(name, BULK, 0, lambda: log.append(name))
        log.append(f"{name} submits")

    await asyncio.gather(*map(ask, "abc"))

    assert log == ["a", "a submits", "b", "b submits", "c", "c submits"]
