"""
Turns of the host for what takes it long: calls of many inputs, and long texts.

One piece of such work at a time; and while another caller has a light call here, none for twice as long afterwards.
Bulk alone, and among bulk, goes at full speed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

_MANY: Final = 64
_LONG: Final = 16_384
_REST: Final = 2.0  # times as long as a piece took
_LONGEST_REST_S: Final = 1.0


class Turns:
    """Whose turn it is, on one loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nobody here."""
        self._clock = clock
        self._light: Counter[str] = Counter()  # light calls that are here, by caller
        self._pieces = asyncio.Lock()
        self._rested_at = 0.0  # when the loop was free for long enough after the last piece

    @contextmanager
    def here(self, caller: str, inputs: int, characters: int = 0) -> Iterator[None]:
        """Count a call while it is here."""
        if _is_heavy(inputs, characters):
            yield
            return
        self._light[caller] += 1
        try:
            yield
        finally:
            self._light[caller] -= 1
            if not self._light[caller]:
                del self._light[caller]

    @asynccontextmanager
    async def piece(self, caller: str, inputs: int, characters: int = 0) -> AsyncIterator[None]:
        """Wait for the turn of a piece of work, if it is heavy: what is done inside, and then until the next wait."""
        if not _is_heavy(inputs, characters):
            yield
            return
        async with self._pieces:
            await asyncio.sleep(self._rested_at - self._clock() if self._light.keys() - {caller} else 0.0)
            started = self._clock()
            try:
                yield
            finally:
                asyncio.get_running_loop().call_soon(self._ended, started)

    def _ended(self, started: float) -> None:
        """Learn how long the piece took: this runs when the loop has gone on."""
        now = self._clock()
        self._rested_at = now + min(_REST * (now - started), _LONGEST_REST_S)


def _is_heavy(inputs: int, characters: int = 0) -> bool:
    """Whether so many inputs, of so many characters in all, take long enough for others to notice."""
    return inputs > _MANY or characters > _LONG
