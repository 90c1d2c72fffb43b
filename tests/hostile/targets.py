"""
The parsers of bytes, each as a function of any bytes that raises only where we are at fault.

Fuzzed by `fuzz.py`; what is kept in `corpus/` runs through them with every `make test`.
"""

import asyncio
import contextlib
import zlib
from collections.abc import Callable, Mapping
from functools import cache

import orjson
from starlette.requests import Request
from starlette.types import Message
from uvicorn import Config
from uvicorn.server import ServerState

from gateway.census import Census
from gateway.config import HttpConfig
from gateway.connection import Connection, guarded
from gateway.errors import HttpFault
from gateway.frames import Frame, read_frame
from gateway.question import read_question
from gateway.tally import check_values
from inference import InvalidRequest, Limits
from tests.gateway.fakes import FakeEngine, Gateway, gateway, served

MOST_BYTES = 100_000
FEW = Limits(max_items=1, max_waiting_tokens=8)
PATHS = (
    "/v1/embeddings",
    "/rerank",
    "/v2/models/e/infer",
    "/v2/models/c/infer",
    "/embed",
    "/predict",
    "/tokenize",
    "/decode",
    "/v2/embed",
    "/classify",
    "/pooling",
    "/models/t",
    "/infinity/embeddings",
)
TASKS = {"e": "embed", "r": "rerank", "c": "classify", "t": "token-classify", "m": "fill-mask", "s": "sparse"}


def tensors(data: bytes) -> None:
    """A V2 body: two bytes say where its JSON ends."""
    end = 2 + int.from_bytes(data[:2], "little")
    frame = Frame(data[2:end], memoryview(data)[end:], raw=end == 2)
    for task in ("embed", "classify"):
        with contextlib.suppress(HttpFault, InvalidRequest):
            read_question(frame, served("tiny", task))


def compressed(data: bytes) -> None:
    """What is decompressed is what zlib makes of it, or a fault."""
    request = Request({"type": "http", "method": "POST", "headers": [(b"content-encoding", b"gzip")]}, _sent(data))
    try:
        frame = loop().run_until_complete(read_frame(request, MOST_BYTES))
    except HttpFault:
        return
    assert frame.head == zlib.decompress(data, 47)
    assert len(frame.head) <= MOST_BYTES


def tally(data: bytes) -> None:
    """Lists and commas are counted as a decoder finds them."""
    try:
        lists, commas = _counted(orjson.loads(data))
    except orjson.JSONDecodeError:
        lists = commas = None
    try:
        check_values(data, FEW)
    except HttpFault:
        assert lists is None or lists > 260 or commas > 268
    else:
        assert lists is None or (lists <= 260 and commas <= 268)


def calls(data: bytes) -> None:
    """Whatever the body of a call, the answer is not our fault; the first byte chooses the path."""
    path = PATHS[data[0] % len(PATHS)] if data else PATHS[0]
    answer = loop().run_until_complete(started().http.post(path, content=data[1:]))
    assert answer.status_code < 500, answer.text


def wire(data: bytes) -> None:
    """Whatever arrives on a connection, in pieces as long as its first byte says, ends in an answer or in nothing."""
    loop().run_until_complete(_connected(data))


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (tensors, compressed, tally, calls, wire)
}


@cache
def loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def started() -> Gateway:
    subject = gateway(FakeEngine(TASKS))
    loop().run_until_complete(subject.lifecycle.start())
    return subject


def stop() -> None:
    """End what the targets have started."""
    if started.cache_info().currsize:
        loop().run_until_complete(started().lifecycle.stop())
    loop().run_until_complete(loop().shutdown_default_executor())
    loop().close()
    for kept in (started, protocol, loop):
        kept.cache_clear()


@cache
def protocol() -> type[Connection]:
    return guarded(HttpConfig(), Census(10, 10), lambda code: None)


class Memory(asyncio.Transport):
    """A transport to nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Take no notice."""

    def resume_reading(self) -> None:
        """Take no notice."""


async def _connected(data: bytes) -> None:
    config, state, transport = Config(_ok, log_config=None, ws="none", lifespan="off"), ServerState(), Memory()
    connection = protocol()(config, state, {}, asyncio.get_running_loop())
    connection.connection_made(transport)
    size = 1 + (data[0] if data else 0)
    for at in range(1, len(data), size):
        if not transport.closed:
            connection.data_received(data[at : at + size])
    connection.connection_lost(None)
    if state.tasks:
        await asyncio.wait(state.tasks)
    assert not transport.written or transport.written.startswith(b"HTTP/1.1 ")
    assert b"HTTP/1.1 5" not in transport.written


async def _ok(scope: object, receive: object, send: Callable[..., object]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _sent(body: bytes) -> Callable[[], object]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _counted(document: object) -> tuple[int, int]:
    if not isinstance(document, list | dict):
        return 0, 0
    inner = [_counted(each) for each in (document.values() if isinstance(document, dict) else document)]
    return 1 + sum(lists for lists, _ in inner), max(0, len(inner) - 1) + sum(commas for _, commas in inner)
