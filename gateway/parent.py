"""
The parent of several processes: starts them, starts again what ends, adds up what they count, and stops them all.

Knows no model and answers no call, so that there is little it could die of. It holds both listening sockets: who
connects while a process is being replaced waits in the kernel for the next one.
"""

import asyncio
import logging
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from gateway import samples
from gateway.config import Settings
from gateway.orders import ENGINE, MISUSED, Assignment, Count, Counted, FromChild, Role, Started, Stop
from gateway.samples import Family
from gateway.server import Signals
from inference import Line

_log = logging.getLogger(__name__)

_MOST_FAILURES: Final = 5  # starts in a row
_PAUSE_S: Final = 0.1  # after the first that fails, then doubled
_COUNT_S: Final = 2.0  # for a child to tell what it counts; else what it told last is true still
_GRACE_S: Final = 5.0  # beyond the drain, before what is left is killed


class _Child:
    """A process that was started, and what it has told."""

    def __init__(self, role: Role, process: "subprocess.Popen[bytes]") -> None:
        self.role = role
        self.process = process
        self.started = False
        self.page: list[Family] = []
        self.line: Line[FromChild] = Line(self._heard, self._hung_up, FromChild)
        self._counted = asyncio.Event()
        self._gone = asyncio.Event()

    async def ended(self) -> int:
        """Wait until the process has ended, and return its code."""
        await self._gone.wait()
        return await asyncio.to_thread(self.process.wait)

    async def count(self) -> None:
        """Have its page brought up to date."""
        self._counted.clear()
        self.line.send(Count())
        await self._counted.wait()

    def _heard(self, line: Line[FromChild], message: FromChild) -> None:
        match message:
            case Started():
                self.started = True
            case Counted():
                self.page = message.page
                self._counted.set()

    def _hung_up(self, line: Line[FromChild]) -> None:
        self._counted.set()
        self._gone.set()


class Parent:
    """The engine's process and those for HTTP."""

    def __init__(self, settings: Settings, listener: socket.socket, home: Path, *, engine: str = ENGINE) -> None:
        """Take the socket that callers connect to, and a folder that nobody else may look into."""
        self._settings = settings
        self._http = listener
        self._engine = engine
        self._path = home / "engine.sock"
        self._engines = socket.socket(socket.AF_UNIX)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._children: list[_Child] = []
        self._departed: list[Family] = []  # what processes counted that have ended
        self._stopping = False
        self._hopeless = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Keep all processes going until a signal, stop them, and return the exit code."""
        self._engines.bind(str(self._path))
        self._engines.listen()
        with self._engines:
            return await self._run()

    async def _run(self) -> int:
        self._loop = asyncio.get_running_loop()
        signals = Signals()
        keeping = [asyncio.create_task(self._keep("engine"))]
        keeping += [asyncio.create_task(self._keep("HTTP process")) for _ in range(self._settings.http.workers)]
        ends = [asyncio.create_task(end.wait()) for end in (signals.first, self._hopeless)]
        await asyncio.wait([*ends, *keeping], return_when=asyncio.FIRST_COMPLETED)
        self._stopping = True
        for child in self._children:
            child.line.send(Stop(signals.interrupted or self._hopeless.is_set()))
        drain = self._settings.drain
        await asyncio.wait(keeping, timeout=drain.drain_delay_s + drain.drain_timeout_s + _GRACE_S)
        for child in self._children:
            _log.error("the %s (pid %d) does not end: killed", child.role, child.process.pid)
            child.process.kill()
        await asyncio.gather(*keeping)
        return self._code

    def pages(self) -> list[list[Family]]:
        """Return what all processes count, those too that have ended (blocking, not on the loop's thread)."""
        if self._loop is None:
            return []
        return asyncio.run_coroutine_threadsafe(self._count(), self._loop).result()

    async def _count(self) -> list[list[Family]]:
        counting = [asyncio.create_task(child.count()) for child in self._children]
        if counting:
            _, late = await asyncio.wait(counting, timeout=_COUNT_S)
            for task in late:
                task.cancel()
        return [self._departed, *(child.page for child in self._children)]

    async def _keep(self, role: Role) -> None:
        """Have a process of this role, whatever becomes of it, until all are stopped."""
        failures = 0
        while not self._stopping:
            child = await self._begin(role)
            code = await child.ended()
            self._children.remove(child)
            self._departed = samples.total([self._departed, samples.lasting(child.page)])
            if self._stopping:
                self._code = self._code or (1 if code else 0)
                return
            failures = 0 if child.started else failures + 1
            _log.error("the %s (pid %d) ended with %d", role, child.process.pid, code)
            if code == MISUSED or failures == _MOST_FAILURES:
                self._code = MISUSED if code == MISUSED else 1
                self._hopeless.set()
                return
            if failures:
                await asyncio.sleep(_PAUSE_S * 2**failures)

    async def _begin(self, role: Role) -> _Child:
        listener = self._engines if role == "engine" else self._http
        ours, theirs = socket.socketpair()
        assignment = Assignment(role, self._settings, theirs.fileno(), listener.fileno(), self._path, self._engine)
        with theirs:
            process = _start(assignment)
        ours.setblocking(False)
        child = _Child(role, process)
        self._children.append(child)
        await asyncio.get_running_loop().create_unix_connection(lambda: child.line, sock=ours)
        if self._stopping:
            child.line.send(Stop(interrupted=True))
        return child


# Threads of one process would be in the way of the others: tokenising a list in parallel costs 30 % more CPU.
_ENVIRONMENT: Final = {"TOKENIZERS_PARALLELISM": "false"}


def _start(assignment: Assignment) -> "subprocess.Popen[bytes]":
    """Start a process that finds the modules that this one finds, and that no terminal's signal reaches."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "gateway", "child"],
        stdin=subprocess.PIPE,
        pass_fds=(assignment.control, assignment.listener),
        process_group=0,
        env={**_ENVIRONMENT, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdin is not None
    try:
        process.stdin.write(pickle.dumps(assignment))
        process.stdin.close()
    except BrokenPipeError:
        _log.error("the %s (pid %d) ended before it began", assignment.role, process.pid)
    return process
