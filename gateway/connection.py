"""
One connection, with what uvicorn's lacks: deadlines for receiving and for being read, limits on what comes and how
much is held, an age, and an answer in the house's shape for whatever is cut.
"""

import asyncio
import random
import re
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway import openai
from gateway.call import network
from gateway.census import Census
from gateway.config import HttpConfig
from gateway.errors import Fault

_LINGER_S: Final = 0.2  # an idle connection stays so long at shutdown, for a call already on its way
_UNHEARD_BYTES: Final = 256 * 1024  # more of what a caller sends that was cut is left in its socket
_UNHEARD_S: Final = 1.0  # how long a caller that was cut may go on sending: closing at once would destroy its answer
_MAX_HEAD_BYTES: Final = 65536
_FRAMING: Final = 6  # bytes on the wire for each of a body sent in chunks of one: more is not for the body's sake
_MOST_AHEAD: Final = 64  # calls on one connection before the first of them is answered
_LARGE: Final = 65536  # bytes of a body that is worth counting among those of all connections
_LEAST_RATE: Final = 256 * 1024  # bytes a second at which an answer must be read, after the time to begin
_MOST_UNREAD_BYTES: Final = 256 * 1024 * 1024  # of answers that their callers leave unread
_JITTER: Final = 0.25  # of a connection's age, so that those opened together do not end together
_UPGRADE: Final = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)

_HEAD_TOO_LARGE: Final = Fault(431, "head_too_large", f"the head is larger than {_MAX_HEAD_BYTES} bytes")
_BESIDE: Final = Fault(413, "body_too_large", "too much comes beside the body: chunk extensions or trailers")
_SLOW_HEAD: Final = Fault(408, "request_timeout", "the head did not arrive in time")
_SLOW_BODY: Final = Fault(408, "request_timeout", "the body did not arrive in time")
_NOT_HTTP: Final = Fault(400, "invalid_http", "what was sent cannot be read as HTTP")
_AHEAD: Final = Fault(400, "invalid_http", f"more than {_MOST_AHEAD} calls were sent ahead of their answers")
_HELD: Final = Fault(503, "unavailable", "too many large bodies are arriving at once", retry_after_s=1.0)
_FULL: Final = {
    "all": Fault(503, "too_many_connections", "no more connections are taken", retry_after_s=1.0),
    "address": Fault(429, "too_many_connections", "no more are taken from this address", retry_after_s=1.0),
}


def guarded(http: HttpConfig, census: "Census[Connection]", on_cut: Callable[[str], None]) -> "type[Connection]":
    """Make the class of a server's connections, as uvicorn wants it; `on_cut` is told the code of every cut."""

    class Guarded(Connection):
        limits = http
        everybody = census
        told_of_cut = staticmethod(on_cut)

    return Guarded


def sweep(connections: "Iterable[Connection]", now: float, most_unread_bytes: int = _MOST_UNREAD_BYTES) -> None:
    """Cut those who do not read, the largest answers first when too much waits; to be called about every second."""
    unread = {connection: connection.unread_bytes(now) for connection in connections}
    excess = sum(unread.values()) - most_unread_bytes
    if excess <= 0:
        return
    for connection in sorted(unread, key=unread.__getitem__, reverse=True):
        connection.abort("unread_answer")
        excess -= unread[connection]
        if excess <= 0:
            return


class Connection(HttpToolsProtocol):
    """
    A connection that must send its head, then its body, then read its answer, each in time.

    uvicorn waits for ever for all three, and resets its keep-alive timer at every byte. Chunk extensions and trailers
    count against the head's limit. A caller that shuts down its sending side counts as gone, for one that closes its
    socket looks the same, and its work must leave the queue.
    """

    limits: HttpConfig
    everybody: "Census[Connection]"
    told_of_cut: Callable[[str], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._address: str | None = None  # None: it is not counted
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes: int | None = None  # None: not within a head
        self._beside_bytes = 0  # what came with a body and is neither it nor the framing of its chunks
        self._body_bytes = 0
        self._unread_until: float | None = None  # None: nothing waited to be read when last looked at
        self._old_at = self.loop.time() + self.limits.connection_age_s * random.uniform(1 - _JITTER, 1 + _JITTER)
        self._deaf = False  # whatever else comes is thrown away
        self._ends = False  # with the body that is on its way: it was answered already
        self._unheard_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let it in, or say why not."""
        super().connection_made(transport)
        address = network(self.client[0]) if self.client else ""
        full = self.everybody.enter(address)
        if full is not None:
            self._cut(_FULL[full])
            self.transport.close()  # without waiting: there are too many already
            return
        self._address = address
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._expect_nothing()
        if self._address is not None:
            self.everybody.leave(self._address)
            self._address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes, and parse it."""
        if self._deaf:
            self._throw_away(data)
            return
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
            self._cut(_BESIDE)

    def on_headers_complete(self) -> None:
        """Begin a call; its body must follow."""
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > _MAX_HEAD_BYTES:
            self._stop(_HEAD_TOO_LARGE)
        if len(self.pipeline) >= _MOST_AHEAD:
            self._stop(_AHEAD)
        self._expect(self.limits.body_timeout_s, _SLOW_BODY)
        self._head_bytes = None
        super().on_headers_complete()
        self.cycle.transport = _Way(self, self.cycle)  # type: ignore[assignment] # all that it uses
        if self.loop.time() >= self._old_at:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._beside_bytes -= _FRAMING * len(body)
        self._body_bytes += len(body)
        if self._body_bytes > _LARGE:
            self._hold()
        if not self._deaf:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Hand the call over: it is whole."""
        self._expect_nothing()
        super().on_message_complete()
        if self._ends:
            self.transport.close()

    def end(self, call: RequestResponseCycle) -> None:
        """Close after a call's answer, but not before the call has come whole: the answer would be lost with it."""
        comes = self._body_bytes > 0 or not self.expect_100_continue  # who asks first whether to send has its answer
        if call.more_body and comes and not self._deaf:
            self._ends = True
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, unless that was done."""
        self._cut(_NOT_HTTP)

    def resume_writing(self) -> None:
        """Note that the caller reads."""
        self._unread_until = None
        super().resume_writing()

    def shutdown(self) -> None:
        """Close when idle, but not before a call that is already on its way could be read."""
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LINGER_S, super().shutdown)
        else:
            super().shutdown()

    def unread_bytes(self, now: float) -> int:
        """Return what the caller has left unread since somebody last looked, and cut it when its time is up."""
        size = self.transport.get_write_buffer_size()
        if size == 0:
            self._unread_until = None
        elif self._unread_until is None:
            self._unread_until = now + self.limits.send_timeout_s + size / _LEAST_RATE
        elif now < self._unread_until:
            return size
        else:
            self.abort("unread_answer")
        return 0

    def abort(self, code: str) -> None:
        """End it without another word: it would not be read."""
        self.told_of_cut(code)
        self.transport.abort()

    def _throw_away(self, data: bytes) -> None:
        self._unheard_bytes += len(data)
        if self._unheard_bytes > _UNHEARD_BYTES:
            self.transport.pause_reading()

    def _hold(self) -> None:
        victim = self.everybody.hold(self, self._address or "", self._body_bytes)
        if victim is not None:
            victim._cut(_HELD)  # noqa: SLF001 - of the same class

    def _expect_head(self) -> None:
        self._expect(self.limits.header_timeout_s, _SLOW_HEAD)
        self._head_bytes = 0

    def _expect(self, within_s: float, otherwise: Fault) -> None:
        self._expect_nothing()
        self._timer = self.loop.call_later(within_s, self._cut, otherwise)

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._body_bytes > _LARGE:
            self.everybody.release(self, self._address or "")
        self._head_bytes = None
        self._beside_bytes = 0
        self._body_bytes = 0

    def _stop(self, fault: Fault) -> None:
        """Cut from within the parser, which stops where something is raised."""
        self._cut(fault)
        raise ValueError(fault.message)

    def _cut(self, fault: Fault) -> None:
        """Say why and close; calls that came whole before are answered first, and in their order."""
        self._expect_nothing()
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        self.told_of_cut(fault.code)
        if self._ends:
            self.transport.close()
        elif self.cycle is None or self.cycle.response_complete:
            self._say(fault)
        elif not self.cycle.more_body:
            self.cycle.keep_alive = False
        elif not self.cycle.response_started and not self.pipeline:
            self._say(fault)
            self._drop_call()
        else:
            self.transport.close()

    def _drop_call(self) -> None:
        """End the call whose body was on its way, and with it what it holds: the caller may stay a while."""
        self.cycle.disconnected = True
        self.cycle.body = bytearray()
        self.cycle.message_event.set()

    def _say(self, fault: Fault) -> None:
        answer = openai.render(fault)
        answer.headers["connection"] = "close"
        phrase = HTTPStatus(fault.status).phrase.encode()
        lines = [b"%s: %s" % pair for pair in answer.raw_headers]
        head = b"\r\n".join([b"HTTP/1.1 %d %s" % (fault.status, phrase), *lines, b"", b""])
        self.transport.write(head + bytes(answer.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(_UNHEARD_S, self.transport.close)
        else:
            self.transport.close()


class _Way:
    """What one call has of its connection's transport."""

    def __init__(self, connection: Connection, call: RequestResponseCycle) -> None:
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = partial(connection.end, call)


def _without_upgrade(data: bytes) -> bytes:
    """
    Overhear an offer to leave HTTP/1.1, which declines it: the parser would drop the body behind it.

    Java's own client offers HTTP/2 with the first call on every connection.
    """
    end = data.find(b"\r\n\r\n")
    offer = _UPGRADE.search(data, 0, len(data) if end < 0 else end)
    return data if offer is None else data[: offer.start()] + b"\r\nx-upgrade:" + data[offer.end() :]
