"""One path, two dialects: a field of the body says which of them is spoken."""

from collections.abc import Sequence

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Fork:
    """An application that looks at the body, and hands the exchange over as if nobody had."""

    def __init__(self, field: str, having: ASGIApp, lacking: ASGIApp, most_bytes: int) -> None:
        """Take who answers bodies that have the field, and who answers all others; larger bodies are not looked at."""
        told = msgspec.defstruct("Told", [(field, msgspec.Raw, None)])  # nothing is made of other fields
        self._decoder = msgspec.json.Decoder(told)
        self._field = field
        self._having = having
        self._lacking = lacking
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        read = await _read(receive, self._most_bytes)
        body = b"".join(message.get("body", b"") for message in read)
        again = iter(read)

        async def receive_again() -> Message:
            message = next(again, None)
            return await receive() if message is None else message

        await (self._having if self._has_field(body) else self._lacking)(scope, receive_again, send)

    def _has_field(self, body: bytes) -> bool:
        try:
            return getattr(self._decoder.decode(body), self._field) is not None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False


async def _read(receive: Receive, most_bytes: int) -> Sequence[Message]:
    """Take the messages of a body: all of them, or enough to see that it is too large."""
    read: list[Message] = []
    size, more = 0, True
    while more and size <= most_bytes:
        read.append(await receive())
        size += len(read[-1].get("body", b""))
        more = read[-1].get("more_body", False)
    return read
