"""A connection between two processes: messages out, coalesced in one write a turn of the loop; messages in."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from inference.wire import BadFrame, Frames, framed

_log = logging.getLogger(__name__)

Heard = TypeVar("Heard")


class Line(asyncio.Protocol, Generic[Heard]):
    """One end of a connection; it ends at the first thing that it does not understand."""

    def __init__(
        self,
        heard: Callable[["Line[Heard]", Heard], None],
        lost: Callable[["Line[Heard]"], None],
        messages: Any,  # a union of message types, which `type[Heard]` cannot be
    ) -> None:
        """Take what to do with a message (it may raise BadFrame), what to do at the end, and what may be said."""
        self._heard = heard
        self._lost = lost
        self._decoder: msgspec.msgpack.Decoder[Heard] = msgspec.msgpack.Decoder(messages)
        self._frames = Frames()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def send(self, message: msgspec.Struct) -> None:
        """Send a message with whatever else is sent in this turn of the loop; to nobody if the other side has gone."""
        if self._transport is None:
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(framed(message))

    def close(self) -> None:
        """End the connection once everything is sent."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    async def closed(self) -> None:
        """End the connection, and wait until everything is sent."""
        self.close()
        await self._ended.wait()

    def data_received(self, data: bytes) -> None:
        """Hear every message that is whole."""
        try:
            for body in self._frames.feed(data):
                self._heard(self, self._decoder.decode(body))
        except (BadFrame, msgspec.DecodeError, UnicodeDecodeError) as err:
            _log.error("a connection between processes is cut: %s", err)
            self._cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        self._ended.set()
        self._lost(self)

    def _cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.write(b"".join(out))
