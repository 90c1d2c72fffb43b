"""
Turns of the host for what takes it long: calls of many inputs, and long texts.

One piece of such work at a time, caller by caller, in a thread that leaves the core to others; and while another
caller has a light call here, none for four times as long afterwards. Bulk alone, and among bulk, goes at full speed.
Answers have turns of their own: what is computed already must not wait for what is not.
"""

import asyncio
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Final, TypeVar

_MANY: Final = 64
_LONG: Final = 16_384
_REST: Final = 4.0  # times as long as a piece took
_LONGEST_REST_S: Final = 1.0
_NICE: Final = 10  # a tenth of the core, against one thread that wants all of it

Made = TypeVar("Made")


class Turns:
    """Whose turn it is, on one loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nobody here."""
        self._light: Counter[str] = Counter()  # light calls that are here, by caller
        rest = _Rest(clock)
        self._work, self._answers = _Line(rest), _Line(rest)
        self._behind = ThreadPoolExecutor(1, "heavy", initializer=_step_back)

    @contextmanager
    def here(self, caller: str, inputs: int, characters: int = 0) -> Iterator[None]:
        """Count a call while it is here."""
        if is_heavy(inputs, characters):
            yield
            return
        self._light[caller] += 1
        try:
            yield
        finally:
            self._light[caller] -= 1
            if not self._light[caller]:
                del self._light[caller]

    async def work(
        self,
        caller: str,
        inputs: int,
        characters: int,
        made: Callable[[], Made],
        executor: Executor | None = None,
        *,
        goes_on: bool = False,
    ) -> Made:
        """
        Have a thread make something: one of the executor's, or in its turn the one for what is heavy.

        Inputs and characters are those of the whole call, of which this may be a part; a later one `goes_on`, ahead of
        what else its caller wants. What the caller does next, until it waits, is part of the piece. Who is cancelled
        leaves at once, and the next turn comes when the thread has ended.
        """
        loop, in_context = asyncio.get_running_loop(), partial(copy_context().run, made)
        if not is_heavy(inputs, characters):
            return await loop.run_in_executor(executor, in_context)
        started = await self._work.begin(caller, rests=self._others_are_light(caller), goes_on=goes_on)
        try:
            thread = loop.run_in_executor(self._behind, in_context)
        except RuntimeError:  # it was closed
            self._work.end(started)
            raise
        waited_for = asyncio.shield(thread)  # its caller goes on before the turn ends
        thread.add_done_callback(lambda ended: self._work.end(started))
        return await waited_for

    async def answer(self, caller: str, inputs: int, left_s: float) -> None:
        """
        Wait for the turn to write an answer of so many inputs, which is what the caller does next.

        Raises TimeoutError after `left_s`.
        """
        if not is_heavy(inputs):
            return
        async with asyncio.timeout(left_s):
            started = await self._answers.begin(caller, rests=self._others_are_light(caller))
        self._answers.end(started)

    async def write(self, caller: str, steps: Iterable[None], left_s: float) -> None:
        """
        Write a long answer in steps that keep the loop, in its turn, with rests between.

        Raises TimeoutError after `left_s`.
        """
        line, rests = self._answers, self._others_are_light(caller)
        async with asyncio.timeout(left_s):
            started = await line.begin(caller, rests=rests)
            try:
                for _ in steps:
                    line.rest.after(line.rest.clock() - started)
                    started = line.rest.clock()
                    await asyncio.sleep(0)  # the loop goes round, whether there is somebody to rest for or not
                    await line.rest.wait(rests)
                    started = line.rest.clock()
            finally:
                line.end(started)

    def close(self) -> None:
        """Wait for the piece under way (blocking), and take no other."""
        self._behind.shutdown(cancel_futures=True)

    def _others_are_light(self, caller: str) -> Callable[[], bool]:
        return lambda: bool(self._light.keys() - {caller})


class _Rest:
    """Until when the host is to be free of heavy pieces."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._until = 0.0

    async def wait(self, rests: Callable[[], bool]) -> None:
        """Wait for the end of the rest, while there is somebody to rest for."""
        while rests() and (left_s := self._until - self.clock()) > 0.0:  # noqa: ASYNC110 - time alone ends a rest
            await asyncio.sleep(left_s)

    def after(self, took_s: float) -> None:
        """Take that a piece has ended that took so long."""
        self._until = max(self._until, self.clock() + min(_REST * took_s, _LONGEST_REST_S))


class _Line:
    """A lock whose waiters come caller by caller, with rests."""

    def __init__(self, rest: _Rest) -> None:
        self.rest = rest
        self._is_taken = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the first caller is next

    async def begin(self, caller: str, *, rests: Callable[[], bool], goes_on: bool = False) -> float:
        """Wait for a turn, ahead of the caller's other ones if it goes on; returns when it began."""
        if self._is_taken:
            await self._wait(caller, goes_on=goes_on)
        self._is_taken = True
        try:
            await self.rest.wait(rests)
        except asyncio.CancelledError:
            self._pass_on()
            raise
        return self.rest.clock()

    def end(self, started: float) -> None:
        """End a turn once the loop has gone on."""
        asyncio.get_running_loop().call_soon(self._ended, started)

    def _ended(self, started: float) -> None:
        self.rest.after(self.rest.clock() - started)
        self._pass_on()

    async def _wait(self, caller: str, *, goes_on: bool) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        own = self._waiting.setdefault(caller, deque())
        if goes_on:
            own.appendleft(turn)
        else:
            own.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # it was handed over just before
            raise

    def _pass_on(self) -> None:
        """Hand the turn to the next caller's first; who has gone has none."""
        while self._waiting:
            caller = next(iter(self._waiting))
            own = self._waiting.pop(caller)
            turn = own.popleft()
            if own:
                self._waiting[caller] = own  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False


def _step_back() -> None:
    """Let this thread leave the core to whoever else wants it; elsewhere a thread has no priority of its own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, thread, max(_NICE, os.getpriority(os.PRIO_PROCESS, thread)))


def is_heavy(inputs: int, characters: int = 0) -> bool:
    """Whether so many inputs, of so many characters in all, take long enough for others to notice."""
    return inputs > _MANY or characters > _LONG
