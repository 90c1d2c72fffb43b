"""
One of the processes of `serve --http-workers`: the engine's, or one for HTTP.

It stops when its parent says so, or has gone. The engine's outlasts the HTTP processes, whose calls it answers.
"""

import asyncio
import contextlib
import importlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Final

import uvloop
from prometheus_client import CollectorRegistry

from gateway import __version__, progress, samples, server
from gateway.app import create_app
from gateway.collector import open_tracer
from gateway.lifecycle import Lifecycle
from gateway.orders import Assignment, Count, Counted, FromParent, Started, Stop
from gateway.telemetry import Metrics
from gateway.tls import server_context
from inference import Client, Host, Line, RemoteEngine

_FAREWELL_S: Final = 1.0  # for the HTTP processes to hear what became of their calls when the device is lost


def run(assignment: Assignment) -> int:
    """Be what is assigned until told to stop, and return the exit code; raises CannotServe."""
    main = _serve_http if assignment.role == "HTTP process" else _serve_engine
    return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main(assignment))


class _Leash:
    """The connection to the parent."""

    def __init__(self, registry: CollectorRegistry, stop: Callable[[bool], None]) -> None:
        """Take what is counted here, and how to stop (`True`: without delay)."""
        self._registry = registry
        self._stop = stop
        self._stopping = False
        self._leaving = False
        self.line: Line[FromParent] = Line(self._heard, self._cut, FromParent)

    async def hold(self, control: int) -> None:
        """Begin to listen."""
        end = socket.socket(fileno=control)
        end.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self.line, sock=end)

    async def release(self) -> None:
        """Tell for the last time what is counted here, and leave."""
        self._leaving = True
        self._report()
        await self.line.closed()

    def _report(self) -> None:
        self.line.send(Counted(samples.read(self._registry)))

    def _heard(self, line: Line[FromParent], message: FromParent) -> None:
        match message:
            case Stop():
                self._stopping = True
                self._stop(message.interrupted)
            case Count():
                self._report()

    def _cut(self, line: Line[FromParent]) -> None:
        """Drain without a parent; one that leaves while its children drain had a second signal."""
        if self._leaving:
            return
        if self._stopping:
            os._exit(1)
        self._stop(True)


async def _serve_http(assignment: Assignment) -> int:
    settings = assignment.settings
    metrics = Metrics(settings.engine.limits.latency_target_s)
    remote = RemoteEngine(assignment.engine_path, __version__)
    client = Client(remote, settings.engine.limits, auto_truncate=settings.engine.auto_truncate)
    lifecycle = Lifecycle(client, metrics, with_engine=False)
    tracer, tls = open_tracer(settings.trace), server_context(settings.tls)
    app = create_app(settings, client, lifecycle, metrics, traced=None if tracer is None else tracer.around)
    signals = server.Signals()
    leash = _Leash(metrics.registry, lambda at_once: signals.stop(interrupted=at_once))
    await leash.hold(assignment.control)
    await remote.connect()
    leash.line.send(Started())
    listener = socket.socket(fileno=assignment.listener)
    code = await server.run(
        app, listener, settings.http, settings.drain, lifecycle, tls=tls, signals=signals, on_cut=metrics.cut
    )
    if tracer is not None:
        await asyncio.to_thread(tracer.close)
    await remote.disconnect()
    await leash.release()
    if lifecycle.state == "starting":
        os._exit(code)  # a thread that waits for the engine cannot be interrupted
    return code


async def _serve_engine(assignment: Assignment) -> int:
    settings = assignment.settings
    metrics = Metrics(settings.engine.limits.latency_target_s)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # whoever means all processes means the parent
    leash = _Leash(metrics.registry, lambda at_once: stopping.set())
    await leash.hold(assignment.control)
    with progress.shown() as step:
        engine = _named(assignment.engine)(settings.engine, observer=metrics.engine_event, progress=step)
        host = Host(engine, __version__)
        await host.listen(socket.socket(fileno=assignment.listener))
        loading, stopped = asyncio.create_task(asyncio.to_thread(engine.load)), asyncio.create_task(stopping.wait())
        await asyncio.wait({loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            os._exit(0)  # a thread that loads weights cannot be interrupted
        loading.result()
    engine.start()
    for model in engine.models.values():
        metrics.loaded(model)
    metrics.watch(engine.statistics, lambda: engine.healthy and not stopping.is_set())
    server.freeze_what_is_loaded()
    host.announce()
    leash.line.send(Started())
    lost = asyncio.create_task(engine.lost())
    await asyncio.wait({lost, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not lost.done():
        await asyncio.wait({lost, asyncio.create_task(host.deserted())}, return_when=asyncio.FIRST_COMPLETED)
    await leash.release()
    if lost.done():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(host.close(), _FAREWELL_S)
        os._exit(1)  # a thread that is stuck in the device cannot be interrupted
    engine.close()
    return 0


def _named(engine: str) -> Any:
    module, _, name = engine.partition(":")
    return getattr(importlib.import_module(module), name)
