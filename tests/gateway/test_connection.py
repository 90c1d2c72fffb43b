import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from starlette.types import Message
from uvicorn import Config
from uvicorn.server import ServerState

from gateway.census import Census
from gateway.config import HttpConfig, Settings
from gateway.connection import Connection, guarded, sweep
from tests.gateway.fakes import listening, post

pytestmark = pytest.mark.anyio

BODY = b'{"input": "w0"}'
HASTY = Settings(http=HttpConfig(header_timeout_s=0.05, body_timeout_s=0.05))
HEAD_BYTES = 65_536
SMALL = Settings(http=HttpConfig(max_body_bytes=1000))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # as `headrace serve` does


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


async def test_a_connection_serves_one_call_after_another() -> None:
    async with listening() as address:
        connection = await address.connect()
        answers = []
        for _ in range(3):
            connection.send(post(BODY))
            answers.append(await connection.response())
        connection.close()

    assert [status for status, _ in answers] == [200] * 3
    assert len({body for _, body in answers}) == 1


async def test_pipelined_calls_are_answered_in_their_order() -> None:
    bodies = [json.dumps({"input": ["w0"] * count}).encode() for count in (1, 2, 3)]
    async with listening() as address:
        connection = await address.connect()
        connection.send(b"".join(map(post, bodies)))
        answers = [await connection.response() for _ in bodies]
        connection.close()

    assert [len(json.loads(body)["data"]) for _, body in answers] == [1, 2, 3]


async def test_an_answer_may_be_awaited_longer_than_a_head_or_a_body() -> None:
    async with listening(settings=HASTY) as address:
        address.gateway.engine.device.gate.clear()
        connection = await address.connect()
        connection.send(post(BODY))
        await asyncio.to_thread(address.gateway.engine.device.entered.wait)
        cut = await address.answer(b"")  # both deadlines have passed by now
        address.gateway.engine.device.gate.set()
        status, _ = await connection.response()
        connection.close()

    assert statuses(cut) == [408]
    assert status == 200


@pytest.mark.parametrize(
    "raw",
    [b"", b"P", b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n", b"\r\n\r\n\r\n"],
    ids=["nothing", "a letter", "half a head", "empty lines"],
)
async def test_a_head_that_never_arrives_is_cut(raw: bytes) -> None:
    async with listening(settings=HASTY) as address:
        answer = await asyncio.wait_for(address.answer(raw), 15)

    assert statuses(answer) == [408]


async def test_a_head_that_drips_is_cut() -> None:
    async with listening(settings=HASTY) as address:
        connection = await address.connect()
        cut = asyncio.create_task(connection.response())
        connection.send(b"GET /livez HTTP/1.1\r\n")
        drops = 0
        while not cut.done() and drops < 10_000:
            drops += 1
            connection.send(b"X: y\r\n")
            await asyncio.wait({cut}, timeout=0.001)
        connection.close()

    assert (await cut)[0] == 408


@pytest.mark.parametrize(
    "raw",
    [
        post(BODY)[:-1],
        post(BODY)[: -len(BODY)],
        post(b"", "Transfer-Encoding: chunked"),
        post(b"5\r\n{", "Transfer-Encoding: chunked"),
        post(b"1\r\n{\r\n0\r\nTrailer: x\r\n", "Transfer-Encoding: chunked"),
        post(BODY, "Expect: 100-continue")[: -len(BODY)],
    ],
    ids=["all but a byte", "none of it", "no chunk", "half a chunk", "no last line", "not even when asked for"],
)
async def test_a_body_that_never_arrives_is_cut_and_nothing_is_queued(raw: bytes) -> None:
    async with listening(settings=HASTY) as address:
        answer = await asyncio.wait_for(address.answer(raw), 15)

    assert 408 in statuses(answer)
    assert address.gateway.engine.submitted == []


@pytest.mark.parametrize("raw", [b"P", post(BODY)[:-1]], ids=["a head", "a body"])
async def test_a_second_call_on_a_connection_has_the_same_deadlines(raw: bytes) -> None:
    async with listening(settings=HASTY) as address:
        connection = await address.connect()
        connection.send(post(BODY))
        await connection.response()
        connection.send(raw)
        cut = await connection.rest()
        connection.close()

    assert statuses(cut) == [408]


async def test_a_streamed_body_over_the_limit_is_refused() -> None:
    chunk = b"64\r\n" + b" " * 100 + b"\r\n"
    async with listening(settings=SMALL) as address:
        answer = await address.answer(post(chunk * 11 + b"0\r\n\r\n", "Transfer-Encoding: chunked", close=True))

    assert statuses(answer) == [413]
    assert b"body_too_large" in answer
    assert address.gateway.engine.submitted == []


@pytest.mark.parametrize(
    "rest",
    [b"1;" + b"x" * 600_000, b"1;x=y\r\n{\r\n" * 60_000, b"0\r\n" + b"X-Trailer: y\r\n" * 40_000],
    ids=["one extension", "many extensions", "trailers"],
)
async def test_what_a_streamed_body_brings_beside_itself_is_limited(rest: bytes) -> None:
    async with listening() as address:
        connection = await address.connect()
        connection.send(post(b"", "Transfer-Encoding: chunked"))
        connection.send(rest)
        cut = await asyncio.wait_for(connection.rest(), 5)
        connection.close()

    assert statuses(cut) == [413]
    assert address.gateway.engine.submitted == []


async def test_a_large_body_in_chunks_of_one_byte_is_taken() -> None:
    body = BODY.ljust(50_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    async with listening() as address:
        answer = await address.answer(post(chunks, "Transfer-Encoding: chunked", close=True))

    assert statuses(answer) == [200]


@pytest.mark.parametrize(
    ("path", "kind", "told"),
    [("/v1/embeddings", "application/json", 413), ("/nowhere", "application/json", 404), ("/embed", "text/plain", 415)],
)
@pytest.mark.parametrize("line", ["Connection: close", "Connection: keep-alive"])
async def test_a_refusal_reaches_who_reads_only_after_sending(path: str, kind: str, told: int, line: str) -> None:
    body = b" " * 9_000_000
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}", f"Content-Length: {len(body)}", line, "", ""]

    def ask(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
            caller.sendall("\r\n".join(head).encode() + body)
            caller.shutdown(socket.SHUT_WR)
            return b"".join(iter(partial(caller.recv, 65_536), b""))

    async with listening() as address:
        answer = await asyncio.to_thread(ask, address.port)

    assert statuses(answer) == [told]


async def test_who_asks_first_whether_to_send_is_refused_and_closed_at_once() -> None:
    head = ["POST /nowhere HTTP/1.1", "Host: x", "Content-Length: 9000000", "Expect: 100-continue", "Connection: close"]
    async with listening() as address:
        answer = await asyncio.wait_for(address.answer("\r\n".join([*head, "", ""]).encode()), 10)

    assert statuses(answer) == [404]


async def test_a_streamed_body_within_the_limit_is_answered() -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\nX-Trailer: y\r\n\r\n"
    async with listening(settings=SMALL) as address:
        answer = await address.answer(post(chunks, "Transfer-Encoding: chunked", close=True))

    assert statuses(answer) == [200]


@pytest.mark.parametrize(
    "flood",
    [
        b"X-Flood: " + b"x" * 70_000 + b"\r\n\r\n",
        b"X-Flood: y\r\n" * 6_000 + b"\r\n",
        b"X-Flood: ".ljust(HEAD_BYTES, b"x"),  # no more: what is left unread at the end resets the connection
        b"X-Flood: y\r\n" * (HEAD_BYTES // 12 + 1),
    ],
    ids=["one long", "many short", "one without an end", "many without an end"],
)
async def test_a_flood_of_headers_is_refused(flood: bytes) -> None:
    async with listening() as address:
        answer = await address.answer(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + flood)

    assert statuses(answer) == [431]


async def test_a_path_without_end_is_refused() -> None:
    async with listening() as address:
        answer = await address.answer(b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n")

    assert statuses(answer) == [431]


async def test_large_but_sound_headers_are_taken_with_a_large_body() -> None:
    body = BODY.ljust(200_000)
    async with listening() as address:
        answer = await address.answer(post(body, "X-Large: " + "x" * 60_000, close=True))

    assert statuses(answer) == [200]


HOSTILE = {
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http 9": b"GET /livez HTTP/9.9\r\n\r\n",
    "no method": b" /livez HTTP/1.1\r\n\r\n",
    "connect": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "options star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "options": b"OPTIONS /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "trace": b"TRACE /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "absolute target without a path": b"GET http://x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "empty target": b"GET  HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "null in the path": b"GET /v1/\x00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "null in the path, quoted": b"GET /v1/%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "latin in the path": b"GET /v1/\xe9 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "broken quoting": b"GET /v1/%zz%1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "null in a header": b"GET /v1 HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    "folded header": b"GET /v1 HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nConnection: close\r\n\r\n",
    "space before a colon": b"GET /v1 HTTP/1.1\r\nHost : x\r\n\r\n",
    "no length": b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + BODY,
    "negative length": b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: -1\r\n\r\n" + BODY,
    "length of letters": b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: ten\r\n\r\n" + BODY,
    "length beyond numbers": b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY,
    "length beyond memory": b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: 999999999999999\r\n"
    b"Connection: close\r\n\r\n" + BODY,
    "two lengths": post(BODY, "Content-Length: 3"),
    "length and chunks": post(b"0\r\n\r\n", "Content-Length: 3", "Transfer-Encoding: chunked"),
    "length too short": post(BODY, close=True).replace(b"Length: 15", b"Length: 9"),
    "unknown coding": post(BODY, "Transfer-Encoding: gzip"),
    "chunked twice": post(BODY, "Transfer-Encoding: chunked, chunked"),
    "chunks that are none": post(b"xyz\r\n" + BODY, "Transfer-Encoding: chunked"),
    "a chunk of negative size": post(b"-1\r\n" + BODY, "Transfer-Encoding: chunked"),
    "a chunk beyond numbers": post(b"f" * 40 + b"\r\n" + BODY, "Transfer-Encoding: chunked"),
    "a chunk without its end": post(b"1\r\n{xx\r\n", "Transfer-Encoding: chunked"),
    "compressed": post(b"\x1f\x8b\x08\x00", "Content-Encoding: gzip", close=True),
    "websocket": b"GET /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
}


async def test_whatever_arrives_is_the_callers_fault_and_queues_nothing() -> None:
    async with listening(settings=HASTY) as address:
        answers = {name: statuses(await address.answer(raw)) for name, raw in HOSTILE.items()}
        afterwards = await address.answer(post(BODY, close=True))

    faults = {name: bool(told) and all(400 <= status < 500 for status in told) for name, told in answers.items()}
    assert faults == dict.fromkeys(HOSTILE, True), answers
    assert statuses(afterwards) == [200]
    assert len(address.gateway.engine.submitted) == 1


@pytest.mark.parametrize("told", [("Content-Length: 3", "Transfer-Encoding: chunked"), ("Content-Length: 5",) * 2])
async def test_what_is_smuggled_behind_a_length_that_is_told_twice_is_no_call(told: tuple[str, str]) -> None:
    call = post(b"", *told, "Transfer-Encoding: chunked").replace(b"Transfer-Encoding: chunked\r\n\r\n", b"\r\n")
    async with listening(settings=HASTY) as address:
        answer = await address.answer(call + b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert statuses(answer) == [400]
    assert b"invalid_http" in answer


SOUND = {
    "http 0.9": b"GET /livez\r\n\r\n",
    "absolute target": b"GET http://x/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "query": b"GET /livez?verbose=%ff&&&= HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n",
    "odd host": b"GET /livez HTTP/1.1\r\nHost: [::1]:99999/\r\nConnection: close\r\n\r\n",
    "bare newlines before": b"\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "get with a body": b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
    "expects to be told": post(BODY, "Expect: 100-continue", close=True),
    "expects a miracle": post(BODY, "Expect: miracle", close=True),
}


async def test_what_is_odd_but_sound_is_answered() -> None:
    async with listening(settings=HASTY) as address:
        answers = {name: statuses(await address.answer(raw)) for name, raw in SOUND.items()}

    assert {name: 200 in told for name, told in answers.items()} == dict.fromkeys(SOUND, True), answers


async def test_an_offer_to_speak_http_2_is_declined_by_answering() -> None:
    offer = post(BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    async with listening() as address:
        connection = await address.connect()
        connection.send(offer)
        first, _ = await connection.response()
        connection.send(post(BODY, close=True))
        second = await connection.rest()
        connection.close()

    assert first == 200
    assert statuses(second) == [200]


async def test_http_1_0_is_answered_and_closed() -> None:
    async with listening() as address:
        answer = await address.answer(b"GET /livez HTTP/1.0\r\n\r\n")

    assert statuses(answer) == [200]
    assert answer.endswith(b"\r\n\r\nalive\n")


async def test_a_head_request_has_no_body() -> None:
    async with listening() as address:
        answer = await address.answer(b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert statuses(answer) == [200]
    assert answer.endswith(b"\r\n\r\n")


async def test_callers_that_close_their_sockets_cost_the_device_nothing() -> None:
    async with listening() as address:
        engine = address.gateway.engine
        engine.device.gate.clear()
        first = await address.connect()
        first.send(post(BODY))
        await asyncio.to_thread(engine.device.entered.wait)
        gone = [await address.connect() for _ in range(50)]
        for number, connection in enumerate(gone):
            connection.send(post(b'{"input": "w1 w%d w1"}' % number))
        await engine.until(lambda: len(engine.submitted) == 51)
        for connection in gone:
            connection.close()
        await asyncio.wait_for(engine.until(lambda: engine.cancelled == 50), 15)
        engine.device.gate.set()
        status, _ = await first.response()
        first.close()

    assert status == 200
    assert [batch.tokens for batch in engine.device.batches] == [3]
    assert address.gateway.metric("headrace_batch_tokens_sum", model="tiny") == 3


async def test_what_is_not_http_is_told_so_as_every_other_mistake_is() -> None:
    async with listening() as address:
        answer = await address.answer(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert json.loads(body)["error"] == {
        "message": "what was sent cannot be read as HTTP",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_http",
    }
    assert address.gateway.metric("headrace_cut_connections_total", code="invalid_http") == 1


async def test_a_call_that_came_whole_is_answered_before_the_nonsense_behind_it() -> None:
    async with listening() as address:
        device = address.gateway.engine.device
        device.gate.clear()
        connection = await address.connect()
        connection.send(post(BODY))
        await asyncio.to_thread(device.entered.wait)
        connection.send(b"nonsense\r\n\r\n")
        second = await address.answer(b"nonsense\r\n\r\n")  # by now the first is read too
        device.gate.set()
        answer = await connection.rest()
        connection.close()

    assert statuses(second) == [400]
    assert statuses(answer) == [200]
    assert b"connection: close" in answer


async def test_calls_far_ahead_of_their_answers_are_not_taken() -> None:
    async with listening() as address:
        device = address.gateway.engine.device
        device.gate.clear()
        connection = await address.connect()
        connection.send(post(BODY))
        await asyncio.to_thread(device.entered.wait)
        connection.send(post(BODY) * 1000)
        await address.gateway.engine.until(lambda: len(address.gateway.engine.submitted) == 1)
        device.gate.set()
        answer = await connection.rest()
        connection.close()

    assert statuses(answer) == [200] * 65
    assert address.gateway.metric("headrace_cut_connections_total", code="invalid_http") == 1


FEW = Settings(http=HttpConfig(max_connections=3, max_connections_per_address=2))


async def test_an_address_has_only_so_many_connections_and_others_have_theirs() -> None:
    async with listening(settings=FEW) as address:
        held = [await address.connect() for _ in range(2)]
        refused = await address.answer(b"")
        other = await address.connect(source="127.0.0.2")
        other.send(post(BODY))
        status, _ = await other.response()
        held[0].close()
        while statuses(await address.answer(post(BODY, close=True))) != [200]:
            pass  # it has not noticed yet
        for connection in (held[1], other):
            connection.close()

    assert statuses(refused) == [429]
    assert b"retry-after: 1" in refused
    assert status == 200


async def test_there_are_only_so_many_connections_in_all() -> None:
    async with listening(settings=FEW) as address:
        held = [await address.connect(source=f"127.0.0.{number}") for number in (2, 3, 4)]
        refused = await address.answer(b"")
        for connection in held:
            connection.close()

    assert statuses(refused) == [503]
    assert b"too_many_connections" in refused


async def test_an_old_connection_ends_with_an_answer() -> None:
    async with listening(settings=Settings(http=HttpConfig(connection_age_s=0.02))) as address:
        connection = await address.connect()
        answer, calls = b"", 0
        while b"connection: close" not in answer and calls < 3000:
            connection.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await connection.reader.readuntil(b"alive\n")
            calls += 1
        nothing = await connection.rest()
        connection.close()

    assert b"connection: close" in answer
    assert nothing == b""


class Unread(asyncio.Transport):
    """A transport whose other end reads when the test says so."""

    def __init__(self, size: int, address: str = "192.0.2.1") -> None:
        super().__init__({"peername": (address, 40000)})
        self.size = size
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.size

    def abort(self) -> None:
        self.aborted = True


async def nobody(scope: object, receive: object, send: object) -> None:
    """An application that is never asked."""


def leaving(size: int) -> tuple[Connection, Unread]:
    """A connection whose caller leaves so much of its answer unread."""
    protocol, transport = guarded(HttpConfig(), Census(9, 9), lambda code: None), Unread(size)
    config = Config(nobody, log_config=None, ws="none", lifespan="off")
    connection = protocol(config, ServerState(), {}, asyncio.get_running_loop())
    connection.connection_made(transport)
    return connection, transport


async def test_an_answer_must_be_begun_in_time_and_then_read_at_a_least_rate() -> None:
    connection, transport = leaving(10 * 256 * 1024)

    for now in (0.0, 39.9):
        sweep([connection], now)
        assert not transport.aborted
    sweep([connection], 40.1)

    assert transport.aborted


async def test_a_caller_that_reads_has_its_time_again() -> None:
    connection, transport = leaving(1000)
    sweep([connection], 0.0)

    connection.resume_writing()
    sweep([connection], 31.0)
    transport.size = 0
    sweep([connection], 62.0)
    transport.size = 1000
    sweep([connection], 93.0)

    assert not transport.aborted


async def test_of_answers_that_are_too_much_together_the_largest_go() -> None:
    everybody = [leaving(size) for size in (10, 70, 40, 50)]
    for now in (0.0, 1.0):
        sweep([connection for connection, _ in everybody], now, most_unread_bytes=110)

    assert [transport.aborted for _, transport in everybody] == [False, True, False, False]


class Listener(Unread):
    """A transport whose caller hears every answer and stays."""

    def __init__(self, address: str) -> None:
        super().__init__(0, address)
        self.written = b""
        self._reads = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Say no more."""

    def is_reading(self) -> bool:
        return self._reads

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True


class Reader:
    """An application that reads bodies, and tells when one will not come any more."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def __call__(self, scope: object, receive: Callable[[], Awaitable[Message]], send: object) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()


class Arriving:
    """A call whose body of 9 MB is on its way from an address."""

    def __init__(self, protocol: type[Connection], address: str) -> None:
        self.reader, self.transport = Reader(), Listener(address)
        config = Config(self.reader, log_config=None, ws="none", lifespan="off")
        self._connection = protocol(config, ServerState(), {}, asyncio.get_running_loop())
        self._connection.connection_made(self.transport)
        self._connection.data_received(post(b"", "Content-Length: 9000000").replace(b"Content-Length: 0\r\n", b""))

    def send(self, size: int) -> None:
        self._connection.data_received(b" " * size)


async def test_of_bodies_that_arrive_the_largest_is_cut_and_its_call_ends_though_the_caller_stays() -> None:
    protocol = guarded(HttpConfig(), Census[Connection](9, 9, most_held_bytes=300_000), lambda code: None)
    first, second = Arriving(protocol, "192.0.2.1"), Arriving(protocol, "192.0.2.2")

    first.send(140_000)
    second.send(100_000)
    first.send(100_000)
    await asyncio.wait_for(first.reader.gone.wait(), 5)

    assert b"503" in first.transport.written
    assert second.transport.written == b""
    assert not second.reader.gone.is_set()


async def test_an_address_that_holds_half_of_it_brings_no_other_body_and_is_not_listened_to_for_long() -> None:
    protocol = guarded(HttpConfig(), Census[Connection](9, 9, most_held_bytes=300_000), lambda code: None)
    first, second = Arriving(protocol, "192.0.2.1"), Arriving(protocol, "192.0.2.1")

    first.send(140_000)
    second.send(100_000)
    heard = second.transport.is_reading()
    second.send(2_000_000)

    assert first.transport.written == b""
    assert b"503" in second.transport.written
    assert (heard, second.transport.is_reading()) == (True, False)
