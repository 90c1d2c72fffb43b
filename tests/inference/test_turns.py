import asyncio
import time
from contextlib import ExitStack
from itertools import pairwise

import pytest

from inference.turns import Turns

pytestmark = pytest.mark.anyio

BULK = 500
PIECE_S = 0.02


async def bulk(turns: Turns, caller: str, began: list[float]) -> None:
    """One piece of work that keeps the loop."""
    with turns.here(caller, BULK):
        async with turns.piece(caller, BULK):
            pass
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


async def test_while_another_caller_has_a_light_call_here_the_loop_is_free_twice_as_long_as_a_piece_took() -> None:
    turns = Turns()

    with turns.here("light", 1):
        waited = await pauses(turns, ["bulk"] * 4)

    assert min(waited) > 1.5 * PIECE_S


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


@pytest.mark.parametrize(("inputs", "characters", "waits"), [(64, 16_384, False), (65, 0, True), (1, 16_385, True)])
async def test_only_what_is_heavy_waits_for_its_turn(inputs: int, characters: int, waits: bool) -> None:
    turns, entered, over = Turns(), asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with turns.piece("bulk", BULK):
            entered.set()
            await over.wait()

    async def ask() -> None:
        async with turns.piece("other", inputs, characters):
            pass

    holder = asyncio.ensure_future(hold())
    await entered.wait()
    asked = asyncio.ensure_future(ask())
    for _ in range(3):
        await asyncio.sleep(0)

    assert asked.done() is not waits
    over.set()
    await asyncio.gather(holder, asked)


async def test_who_is_cancelled_while_it_waits_leaves_the_turn_to_the_next() -> None:
    turns, entered, over = Turns(), asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with turns.piece("bulk", BULK):
            entered.set()
            await over.wait()

    holder = asyncio.ensure_future(hold())
    await entered.wait()
    gone = asyncio.ensure_future(bulk(turns, "gone", []))
    began: list[float] = []
    last = asyncio.ensure_future(bulk(turns, "last", began))
    await asyncio.sleep(0)
    gone.cancel()
    over.set()
    await asyncio.gather(holder, last)

    assert gone.cancelled()
    assert len(began) == 1
