"""
uvicorn, with what it lacks: connections that are guarded, and a drain that loses nothing.

A first SIGTERM or SIGINT drains, a second one ends the process at once.
"""

import asyncio
import contextlib
import gc
import logging
import math
import os
import resource
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import uvicorn
from starlette.types import ASGIApp

from gateway.census import Census
from gateway.config import DrainConfig, HttpConfig
from gateway.connection import guarded, sweep
from gateway.lifecycle import Lifecycle

if TYPE_CHECKING:
    from gateway.rpc import Rpc  # its home imports gRPC

_log = logging.getLogger(__name__)

_KEEP_ALIVE_S: Final = 75  # longer than common proxies keep theirs, so that the proxy closes first
_OTHER_FILES: Final = 256  # beside connections: the model's, the log, threads' own
_LOOK_S: Final = 1.0  # between two looks at all connections
_TICKS_A_LOOK: Final = 10  # as uvicorn counts them


def bind(host: str, port: int) -> socket.socket:
    """Open the listening socket, so that a port that is taken shows before anything is loaded; raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def url(host: str, port: int, *, secure: bool = False) -> str:
    """Write an address as people click it."""
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def run(
    app: ASGIApp,
    listener: socket.socket,
    http: HttpConfig,
    drain: DrainConfig,
    lifecycle: Lifecycle,
    *,
    tls: ssl.SSLContext | None,
    signals: "Signals | None" = None,
    rpc: "Rpc | None" = None,
    on_cut: Callable[[str], None] = lambda code: None,
) -> int:
    """
    Serve until a signal, drain, and return the exit code; raises CannotServe if a model cannot be loaded.

    Over TLS if there is a context for it. `on_cut` is told the code of every connection that is cut.
    """
    signals = signals or Signals()
    server = _Server(_uvicorn_config(app, _allowed(http), drain, tls, on_cut))
    serving = asyncio.create_task(server.serve([listener]))
    starting = asyncio.create_task(lifecycle.start())
    stopping = asyncio.create_task(signals.first.wait())
    await asyncio.wait({starting, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    if not starting.done():
        _log.warning("stopped while starting")
        return 0  # nothing was taken
    if starting.exception() is None:
        freeze_what_is_loaded()
        if rpc is not None:
            await rpc.ready()
        _log.info("ready: listening on %s", url(*listener.getsockname()[:2], secure=tls is not None))
        dying = asyncio.create_task(lifecycle.device_lost())
        await asyncio.wait({stopping, serving, dying}, return_when=asyncio.FIRST_COMPLETED)
        await _announce_drain(signals, drain, lifecycle, rpc)
        dying.cancel()
    stopping.cancel()
    server.leave()
    lost = await _finish(serving, drain, lifecycle, rpc)
    starting.result()
    return 1 if lost or not lifecycle.healthy else 0


def freeze_what_is_loaded() -> None:
    """Take what is loaded out of the garbage collector's sight: a full collection took 190 ms of all threads."""
    gc.collect()
    gc.freeze()


async def _announce_drain(signals: "Signals", drain: DrainConfig, lifecycle: Lifecycle, rpc: "Rpc | None") -> None:
    """Fail readiness at once, and go on accepting until load balancers have noticed."""
    lifecycle.drain()
    if rpc is not None:
        await rpc.drain()
    delay_s = 0.0 if signals.interrupted else drain.drain_delay_s
    _log.info("draining: accepting for another %.1f s", delay_s)
    await asyncio.sleep(delay_s)


async def _finish(serving: asyncio.Task[None], drain: DrainConfig, lifecycle: Lifecycle, rpc: "Rpc | None") -> int:
    """Answer what was taken; return how many calls got a 503 because the time was up."""
    lost = 0

    def give_up() -> None:
        nonlocal lost
        lost = lifecycle.abandon()

    timer = asyncio.get_running_loop().call_later(drain.drain_timeout_s, give_up)
    if rpc is not None:
        await rpc.stop(drain.drain_timeout_s + 1)
    await serving
    timer.cancel()
    await lifecycle.stop()
    _log.info("stopped" if not lost else "stopped: %d calls could not be finished in time", *([lost] if lost else []))
    return lost


class Signals:
    """The first signal sets `first`; a second one does not wait for anything."""

    def __init__(self) -> None:
        """Take SIGTERM and SIGINT over, on the running loop."""
        self.first = asyncio.Event()
        self.interrupted = False
        self._signalled = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._arrived, number)

    def stop(self, *, interrupted: bool) -> None:
        """Stop as a first signal would; beside one it changes nothing, nor does it make one the second."""
        if not self.first.is_set():
            self.interrupted = interrupted
            self.first.set()

    def _arrived(self, number: signal.Signals) -> None:
        if self._signalled:
            _log.warning("a second signal: leaving at once")
            os._exit(128 + number)
        self._signalled = True
        self.stop(interrupted=number == signal.SIGINT)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, for ours drain first; an eye on who does not shake hands, or read."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Accept no more, answer what was taken, and end."""
        self.should_exit = True
        self._leaving.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, but for the time that a TLS handshake may take: it leaves that at a minute."""
        if self.config.ssl is None:
            await super().startup(sockets)
            return
        await self.lifespan.startup()
        loop, config = asyncio.get_running_loop(), self.config
        protocol: Callable[[], asyncio.Protocol] = partial(
            cast("Any", config.http_protocol_class),
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        limits: HttpConfig = config.http_protocol_class.limits  # type: ignore[attr-defined]
        self.servers = [
            await loop.create_server(
                protocol,
                sock=each,
                ssl=config.ssl,
                ssl_handshake_timeout=limits.header_timeout_s,
                backlog=config.backlog,
            )
            for each in sockets or []
        ]
        self.started = True

    async def main_loop(self) -> None:
        """Look once a second, and end at once when told to; uvicorn wakes ten times a second for both."""
        counter = 0
        while not await self.on_tick(counter):
            sweep(list(self.server_state.connections), time.monotonic())  # type: ignore[arg-type]
            counter += _TICKS_A_LOOK
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), _LOOK_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _allowed(http: HttpConfig) -> HttpConfig:
    """Ask the system for as many open files as connections need, and take no more than it gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = http.max_connections + _OTHER_FILES
    files = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, files), hard))
    room = max(1, files - _OTHER_FILES)
    if room < http.max_connections:
        _log.warning("at most %d connections: the system allows %d open files", room, hard)
    return replace(http, max_connections=room)


def _uvicorn_config(
    app: ASGIApp, http: HttpConfig, drain: DrainConfig, tls: ssl.SSLContext | None, on_cut: Callable[[str], None]
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=guarded(http, Census(http.max_connections, http.max_connections_per_address), on_cut),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        ssl_context_factory=None if tls is None else lambda config, default: tls,
        timeout_graceful_shutdown=math.ceil(drain.drain_timeout_s) + 1,
    )
