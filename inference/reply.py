"""Where outcomes go: a call that waits for its results. Lives on the event loop alone."""

import asyncio
from dataclasses import dataclass

from inference.errors import InferenceError
from inference.request import Result


class Pending:
    """A call that waits: done when every result is there, or with the first failure."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        """Wait for so many results."""
        self.future: asyncio.Future[list[Result]] = loop.create_future()
        self._results: list[Result | None] = [None] * count
        self._missing = count

    def succeed(self, index: int, result: Result) -> None:
        """Take the result of one request; late and repeated ones are dropped."""
        if self.future.done() or self._results[index] is not None:
            return
        self._results[index] = result
        self._missing -= 1
        if self._missing == 0:
            self.future.set_result([result for result in self._results if result is not None])

    def fail(self, error: InferenceError) -> None:
        """End the call with an error, unless it has ended."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # seen: who waits may be leaving at this moment, which is no news for the log


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """The reply of one request: its place in its call."""

    pending: Pending
    index: int

    def succeed(self, result: Result) -> None:
        """Deliver the answer."""
        self.pending.succeed(self.index, result)

    def fail(self, error: InferenceError) -> None:
        """Deliver the failure."""
        self.pending.fail(error)
