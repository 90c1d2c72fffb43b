"""
uvicorn, with what it lacks: deadlines for receiving, a limit on headers, and a drain that loses nothing.

A first SIGTERM or SIGINT drains, a second one ends the process at once.
"""

import asyncio
import contextlib
import gc
import logging
import math
import os
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.config import DrainConfig, HttpConfig
from gateway.lifecycle import Lifecycle

if TYPE_CHECKING:
    from gateway.rpc import Rpc  # its home imports gRPC

_log = logging.getLogger(__name__)

_KEEP_ALIVE_S: Final = 75  # longer than common proxies keep theirs, so that the proxy closes first
_LINGER_S: Final = 0.2  # an idle connection stays so long at shutdown, for a call already on its way
_MAX_HEAD_BYTES: Final = 65536
_FRAMING: Final = 6  # bytes on the wire for each of a body sent in chunks of one: more is not for the body's sake
_UPGRADE: Final = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)
_HEAD_TOO_LARGE: Final = b"431 Request Header Fields Too Large"
_TOO_LARGE: Final = b"413 Content Too Large"


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
) -> int:
    """
    Serve until a signal, drain, and return the exit code; raises CannotServe if a model cannot be loaded.

    Over TLS if there is a context for it.
    """
    signals = signals or Signals()
    server = _Server(_uvicorn_config(app, http, drain, tls))
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
    server.should_exit = True
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
    """uvicorn without its signal handlers: ours drain first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn_config(app: ASGIApp, http: HttpConfig, drain: DrainConfig, tls: ssl.SSLContext | None) -> uvicorn.Config:
    class Protocol(_DeadlineProtocol):
        header_timeout_s = http.header_timeout_s
        body_timeout_s = http.body_timeout_s

    return uvicorn.Config(
        app,
        http=Protocol,
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


class _DeadlineProtocol(HttpToolsProtocol):
    """
    A connection that must send its headers, then its body, in time.

    uvicorn waits for ever for both, and resets its keep-alive timer at every byte. Chunk extensions and trailers count
    against the head's limit. A caller that shuts down its sending side counts as gone, for one that closes its socket
    looks the same, and its work must leave the queue.
    """

    header_timeout_s: float
    body_timeout_s: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes: int | None = None  # None: not within a head
        self._beside_bytes = 0  # what came with a body and is neither it nor the framing of its chunks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._timer is None:
            self._expect_head()
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            data = _without_upgrade(data)
        else:
            self._beside_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > _MAX_HEAD_BYTES:
            self._cut(_HEAD_TOO_LARGE)
        elif self._beside_bytes > _MAX_HEAD_BYTES:
            self._cut(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > _MAX_HEAD_BYTES:
            self._cut(_HEAD_TOO_LARGE)
            raise ValueError("the head is too large")  # the parser stops here
        self._expect(self.body_timeout_s)
        self._head_bytes = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._beside_bytes -= _FRAMING * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._expect_nothing()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, unless that was done."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def shutdown(self) -> None:
        """Close when idle, but not before a call that is already on its way could be read."""
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LINGER_S, super().shutdown)
        else:
            super().shutdown()

    def _expect_head(self) -> None:
        self._expect(self.header_timeout_s)
        self._head_bytes = 0

    def _expect(self, within_s: float) -> None:
        self._expect_nothing()
        self._timer = self.loop.call_later(within_s, self._cut, b"408 Request Timeout")

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._head_bytes = None
        self._beside_bytes = 0

    def _cut(self, status: bytes) -> None:
        self._expect_nothing()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """
    Overhear an offer to leave HTTP/1.1, which declines it: the parser would drop the body behind it.

    Java's own client offers HTTP/2 with the first call on every connection.
    """
    end = data.find(b"\r\n\r\n")
    offer = _UPGRADE.search(data, 0, len(data) if end < 0 else end)
    return data if offer is None else data[: offer.start()] + b"\r\nx-upgrade:" + data[offer.end() :]
