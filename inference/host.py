"""
The engine's side of the socket: what it answers to the HTTP processes that connect.

A guest that goes, or sends what is no message, takes its calls with it and nobody else's.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from inference.errors import InferenceError, RuntimeFailed, UnknownModel
from inference.line import Line
from inference.request import Call, Result
from inference.wire import (
    Ask,
    BadFrame,
    Cancel,
    Farewell,
    FromWorker,
    Hello,
    Snapshot,
    answer_of,
    call_of,
    catalogue_of,
    failure_of,
)

if TYPE_CHECKING:
    from inference.engine import Engine

_log = logging.getLogger(__name__)

_STATISTICS_S: Final = 0.25  # how old what the guests know of the engine may be


class _Guest:
    """An HTTP process that is connected, and its calls under way."""

    def __init__(self, line: Line[FromWorker]) -> None:
        self.line = line
        self.calls: dict[int, asyncio.Task[Sequence[Result]]] = {}


class Host:
    """Serves an engine, whose `load` may still be to come, to HTTP processes of this version."""

    def __init__(self, engine: "Engine", version: str) -> None:
        """Take the engine."""
        self._engine = engine
        self._version = version
        self._guests: dict[Line[FromWorker], _Guest] = {}
        self._deserted = asyncio.Event()
        self._deserted.set()
        self._announced = False
        self._due: asyncio.TimerHandle | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Take guests from now on."""
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_unix_server(
            lambda: Line(self._heard, self._gone, FromWorker), sock=listener
        )

    def announce(self) -> None:
        """Tell every guest, and who comes later, what is served now."""
        self._announced = True
        for line in self._guests:
            self._tell(line)

    async def close(self) -> None:
        """Hang up on everybody once they have their answers, and take no more guests."""
        self._server.close()
        for line in list(self._guests):
            await line.closed()

    async def deserted(self) -> None:
        """Wait until no guest is there."""
        await self._deserted.wait()

    def _heard(self, line: Line[FromWorker], message: FromWorker) -> None:
        guest = self._guests.get(line)
        match message:
            case Hello() if guest is None:
                self._greet(line, message.version)
            case Ask() if guest is not None:
                self._begin(guest, message)
                self._report_soon()
            case Cancel() if guest is not None:
                call = guest.calls.pop(message.number, None)
                if call is not None:
                    call.cancel()
            case _:
                raise BadFrame("it did not begin with its greeting, or repeated it")

    def _greet(self, line: Line[FromWorker], version: str) -> None:
        if version != self._version:
            reason = f"it is version {version[:100]!r}, and the engine is {self._version!r}"
            _log.error("an HTTP process is turned away: %s", reason)
            line.send(Farewell(reason))
            line.close()
            return
        self._guests[line] = _Guest(line)
        self._deserted.clear()
        if self._announced:
            self._tell(line)

    def _tell(self, line: Line[FromWorker]) -> None:
        line.send(catalogue_of(self._engine.models))
        if (statistics := self._engine.statistics()) is not None:
            line.send(Snapshot(statistics))

    def _begin(self, guest: _Guest, ask: Ask) -> None:
        call, number = call_of(ask), ask.number
        if ask.model not in self._engine.models:
            guest.line.send(failure_of(number, UnknownModel(f"the model {ask.model!r} is not served", "model")))
            return
        guest.calls[number] = running = self._loop.create_task(self._run(call))
        running.add_done_callback(partial(self._end, guest, number))

    async def _run(self, call: Call) -> Sequence[Result]:
        return await self._engine.submit(call)

    def _end(self, guest: _Guest, number: int, ran: "asyncio.Task[Sequence[Result]]") -> None:
        """Send home what became of a call; nobody waits for a cancelled one."""
        guest.calls.pop(number, None)
        if ran.cancelled():
            return
        error = ran.exception()
        if error is None:
            guest.line.send(answer_of(number, ran.result()))
        elif isinstance(error, InferenceError):
            guest.line.send(failure_of(number, error))
        else:
            _log.error("a call ended in a bug", exc_info=error)
            guest.line.send(failure_of(number, RuntimeFailed("a bug")))
        self._report_soon()

    def _gone(self, line: Line[FromWorker]) -> None:
        guest = self._guests.pop(line, None)
        if guest is None:
            return
        for call in guest.calls.values():
            call.cancel()
        if not self._guests:
            self._deserted.set()

    def _report_soon(self) -> None:
        """Tell the guests how the engine is doing, a little after something has changed; an idle one says nothing."""
        if self._due is None:
            self._due = self._loop.call_later(_STATISTICS_S, self._report)

    def _report(self) -> None:
        self._due = None
        statistics = self._engine.statistics()
        if statistics is not None:
            for line in self._guests:
                line.send(Snapshot(statistics))
