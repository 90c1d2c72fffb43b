"""How many calls use something that is to go when the last of them has ended. Lives on the event loop alone."""

import asyncio


class Use:
    """A context for each call; `over` waits until none is inside."""

    def __init__(self) -> None:
        """Begin without calls."""
        self._calls = 0
        self._over: asyncio.Event | None = None

    def __enter__(self) -> None:
        self._calls += 1

    def __exit__(self, *error: object) -> None:
        self._calls -= 1
        if self._over is not None and not self._calls:
            self._over.set()

    async def over(self) -> None:
        """Wait until no call uses it; who calls this sees to it that no more come."""
        self._over = asyncio.Event()
        if self._calls:
            await self._over.wait()
