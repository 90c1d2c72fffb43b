"""
The engine of another process, as an HTTP process holds it.

Calls are numbered, since replies cannot cross: a number is forgotten with its answer, or when nobody waits for it any
more. The connection is made again for as long as it takes; meanwhile calls fail at once.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from inference.batcher import BatcherStatistics
from inference.config import EngineConfig
from inference.errors import CannotServe, DeadlineExceeded, InferenceError, Unavailable
from inference.line import Line
from inference.model import ServedModel
from inference.request import Call, Result
from inference.scheduler import Refused, Work
from inference.wire import (
    Answer,
    Cancel,
    Catalogue,
    Failure,
    Farewell,
    FromEngine,
    Hello,
    Snapshot,
    ask_of,
    error_of,
    results_of,
)

_AGAIN_S: Final = 0.1  # between connections: an engine that hears nonsense hangs up, and may do so again


class RemoteEngine:
    """What `Client` asks of an engine, asked over a socket."""

    def __init__(self, path: Path, version: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the socket's path; its other end must be of this version."""
        self.models: Mapping[str, ServedModel] = {}
        self.config = EngineConfig()  # what is told of models is told to the engine's own process
        self._path = path
        self._version = version
        self._clock = clock
        self._line: Line[FromEngine] | None = None
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[list[Result]]] = {}
        self._statistics: BatcherStatistics | None = None
        self._loaded = threading.Event()
        self._turned_away = ""  # and why
        self._lost = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._gone = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Reach the engine's process, whether it has loaded its models or not; and again, whenever it is lost."""
        await self._reach()
        self._life = asyncio.create_task(self._keep())

    async def disconnect(self) -> None:
        """Leave the engine for good."""
        if self._life is not None:
            self._life.cancel()
        if self._line is not None:
            await self._line.closed()

    def load(self) -> None:
        """Wait until the engine has loaded its models (blocking, on any thread); raises CannotServe."""
        self._loaded.wait()
        if self._turned_away:
            raise CannotServe(self._turned_away)

    def start(self) -> None:
        """Nothing: it serves since it has loaded."""

    @property
    def ready(self) -> bool:
        """Whether calls would be taken now."""
        return self._line is not None and bool(self.models)

    @property
    def healthy(self) -> bool:
        """Whether the engine talks to this process; one that is ill ends, and another one starts."""
        return not self._turned_away

    async def submit(self, call: Call) -> Sequence[Result]:
        """Run a call: all of its requests or none, over at its deadline; raises InferenceError."""
        line = self._line
        if line is None or not self.models:
            raise Unavailable("starting")
        number = next(self._numbers)
        future: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._idle.clear()
        line.send(ask_of(number, call))
        try:
            async with asyncio.timeout(call.deadline - self._clock()):
                return await future
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the answer") from None
        finally:
            if self._waiting.pop(number, None) is not None:
                line.send(Cancel(number))
            if not self._waiting:
                self._idle.set()

    def refusal(self, work: Work) -> Refused | None:
        """Refuse nothing before it is tokenised: admission is the engine's."""
        return None

    def statistics(self) -> BatcherStatistics | None:
        """Return what the engine told last; None while it starts."""
        return self._statistics

    async def lost(self) -> None:
        """Wait until the engine says that it will never talk to this process."""
        await self._lost.wait()

    async def drained(self) -> None:
        """Wait until no call is in flight."""
        await self._idle.wait()

    def abandon(self) -> int:
        """Fail every call that is not answered yet; returns how many."""
        return self._fail_all(Unavailable("shutting down"))

    def close(self) -> None:
        """Nothing: the connection ends with this process, and the engine sees it."""

    async def _keep(self) -> None:
        while True:
            await self._gone.wait()
            if self._turned_away:
                return
            await asyncio.sleep(_AGAIN_S)
            try:
                await self._reach()
            except OSError:  # a full backlog
                self._gone.set()

    async def _reach(self) -> None:
        """Connect; the listener outlives the engine, so that who comes while it starts waits in its backlog."""
        self._gone.clear()
        line: Line[FromEngine] = Line(self._heard, self._hung_up, FromEngine)
        await asyncio.get_running_loop().create_unix_connection(lambda: line, str(self._path))
        line.send(Hello(self._version))
        self._line = line

    def _heard(self, line: Line[FromEngine], message: FromEngine) -> None:
        match message:
            case Answer():
                self._settle(message.number, results_of(message))
            case Failure():
                self._settle(message.number, error_of(message))
            case Snapshot():
                self._statistics = message.statistics
            case Catalogue():
                self.models = message.models
                self._loaded.set()
            case Farewell():
                self._turned_away = message.reason
                self._loaded.set()
                self._lost.set()

    def _settle(self, number: int, outcome: list[Result] | InferenceError) -> None:
        """Give a call its outcome, if it still waits."""
        future = self._waiting.pop(number, None)
        if future is None or future.done():
            return
        if isinstance(outcome, InferenceError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _hung_up(self, line: Line[FromEngine]) -> None:
        """Fail whatever waits for an engine that has gone: its successor knows nothing of it."""
        self._line = None
        self.models = {}
        if not self._turned_away:
            self._loaded.clear()
        self._statistics = None
        self._fail_all(Unavailable("the engine has gone, and starts again"))
        self._gone.set()

    def _fail_all(self, error: InferenceError) -> int:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)
        return len(waiting)
