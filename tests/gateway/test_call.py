import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import orjson
import pytest
from starlette.requests import Request

from gateway import telemetry
from gateway.call import Door
from gateway.config import DeadlineConfig, Settings
from inference import Answer, CallTimings, DeadlineExceeded
from tests.controls.guard import ROOT
from tests.fakes import FakeClock
from tests.gateway.fakes import FakeEngine, Gateway, ready

pytestmark = pytest.mark.anyio

SMALL = Settings(http=replace(Settings().http, max_body_bytes=1000))


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON", None])
async def test_json_is_taken_however_it_is_announced(kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    async with ready() as subject:
        answer = await subject.http.post("/v1/embeddings", content=b'{"input": "w0"}', headers=headers)

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "",
        ";",
    ],
)
async def test_another_content_type_is_refused_and_nothing_is_queued(kind: str) -> None:
    async with ready() as subject:
        answer = await subject.http.post("/v1/embeddings", content=b'{"input": "w0"}', headers={"content-type": kind})

    assert answer.status_code == 415
    assert answer.json()["error"]["param"] == "Content-Type"
    assert subject.engine.submitted == []


async def test_a_body_as_large_as_the_limit_is_read_and_one_byte_more_is_not() -> None:
    body = b'{"input": "w0"}'
    async with ready(settings=SMALL) as subject:
        fits = await subject.http.post("/v1/embeddings", content=body.ljust(1000))
        exceeds = await subject.http.post("/v1/embeddings", content=body.ljust(1001))

    assert fits.status_code == 200
    assert exceeds.status_code == 413
    assert exceeds.json()["error"]["code"] == "body_too_large"
    assert len(subject.engine.submitted) == 1


async def test_a_body_without_a_length_is_counted_as_it_arrives() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < 100:
            taken += 1
            yield b" " * 100

    async with ready(settings=SMALL) as subject:
        answer = await subject.http.post("/v1/embeddings", content=endless())

    assert answer.status_code == 413
    assert taken == 11
    assert subject.engine.submitted == []


async def test_a_length_over_the_limit_is_refused_before_the_body_is_read() -> None:
    async with ready(settings=SMALL) as subject:
        exchange = Exchange(subject, body=None, headers={"content-length": "1001"})
        await exchange.run()

    assert exchange.status == 413
    assert not exchange.was_read


@pytest.mark.parametrize("told", ["1", "250", "300000", "000250"])
async def test_a_caller_may_say_how_long_it_waits(told: str) -> None:
    clock = FakeClock(1000.0)
    async with ready(FakeEngine(clock=clock)) as subject:
        subject.engine.error = ZeroDivisionError()
        await subject.embed({"input": "w0"}, **{"x-request-timeout-ms": told})

    assert subject.engine.submitted[0].deadline == pytest.approx(1000.0 + int(told) / 1000)


async def test_without_a_word_the_default_timeout_holds() -> None:
    clock = FakeClock(1000.0)
    settings = Settings(deadlines=DeadlineConfig(default_timeout_s=7.0))
    async with ready(FakeEngine(clock=clock), settings) as subject:
        subject.engine.error = ZeroDivisionError()
        await subject.embed({"input": "w0"})

    assert subject.engine.submitted[0].deadline == 1007.0


@pytest.mark.parametrize(
    "told",
    [
        *("", "0", "-1", "+1", "1e3", "1.5", "1_000", "0x10", " ", "1 2", "ten", "NaN"),
        *("300001", "999999999999", "9" * 5000),
        *("١٢٣".encode(), "²".encode("latin-1")),
    ],
    ids=lambda told: repr(told)[:20],
)
async def test_a_timeout_that_is_no_number_of_milliseconds_is_refused_and_nothing_is_queued(told: str | bytes) -> None:
    async with ready() as subject:
        answer = await subject.http.post(
            "/v1/embeddings", content=b'{"input": "w0"}', headers=[(b"x-request-timeout-ms", told)]
        )

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "X-Request-Timeout-Ms"
    assert subject.engine.submitted == []


async def test_a_call_ends_at_its_deadline_although_the_device_is_held() -> None:
    async with ready() as subject:
        subject.engine.device.gate.clear()
        answer = await subject.embed({"input": "w0"}, **{"x-request-timeout-ms": "20"})

    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"


async def test_a_caller_that_goes_cancels_its_call() -> None:
    async with ready() as subject:
        subject.engine.device.gate.clear()
        exchange = Exchange(subject, body=b'{"input": "w0"}')
        running = asyncio.create_task(exchange.run())
        await subject.engine.until(lambda: len(subject.engine.submitted) == 1)
        exchange.leave.set()
        await running

    assert subject.engine.cancelled == 1
    assert subject.metric("headrace_requests_total", route="/v1/embeddings", model="tiny", outcome="cancelled") == 1


async def test_a_caller_that_goes_while_it_sends_queues_nothing() -> None:
    async with ready() as subject:
        exchange = Exchange(subject, body=b'{"input": ', complete=False)
        exchange.leave.set()
        await exchange.run()

    assert subject.engine.submitted == []
    assert subject.metric("headrace_requests_total", route="/v1/embeddings", model="", outcome="cancelled") == 1


async def test_ending_the_task_of_a_call_is_no_departure_of_its_caller() -> None:
    async with ready() as subject:
        subject.engine.device.gate.clear()
        exchange = Exchange(subject, body=b'{"input": "w0"}')
        running = asyncio.create_task(exchange.run())
        await subject.engine.until(lambda: len(subject.engine.submitted) == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    assert subject.engine.cancelled == 1
    assert exchange.status is None


class Exchange:
    """One POST as the server would hand it to the application; the caller leaves when told to."""

    def __init__(
        self, subject: Gateway, *, body: bytes | None, headers: dict[str, str] | None = None, complete: bool = True
    ) -> None:
        self.status: int | None = None
        self.was_read = False
        self.leave = asyncio.Event()
        self._subject = subject
        self._messages = [] if body is None else [{"type": "http.request", "body": body, "more_body": not complete}]
        self._headers = headers or {}

    async def run(self) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/embeddings",
            "raw_path": b"/v1/embeddings",
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in self._headers.items()],
        }
        await self._subject.app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, object]:
        self.was_read = True
        if self._messages:
            return self._messages.pop()
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]


def request(timeout_ms: int) -> Request:
    headers = [(b"x-request-timeout-ms", b"%d" % timeout_ms)]
    scope = {"type": "http", "headers": headers, "headrace": telemetry.Exchange("id")}
    return Request(scope, asyncio.Event().wait)  # type: ignore[arg-type]


async def test_what_runs_beside_the_device_runs_one_by_one_and_ends_at_its_deadline() -> None:
    ran, may_end = [], threading.Event()
    async with ready() as subject:
        door = Door(subject.client, subject.settings, subject.metrics)

        with pytest.raises(DeadlineExceeded):
            await door.aside(request(5), 1, lambda: may_end.wait(30))
        with pytest.raises(DeadlineExceeded):
            await door.aside(request(5), 1, lambda: ran.append("too late"))
        may_end.set()
        made = await door.aside(request(10_000), 1, lambda: "made")

    assert made == "made"
    assert ran == []


async def test_between_two_answers_of_many_items_the_loop_goes_round() -> None:
    async def computed() -> Answer[int]:
        return Answer("tiny", range(65), 65, CallTimings(0.0, 0.0, 0.0))

    async with ready() as subject:
        door = Door(subject.client, subject.settings, subject.metrics)
        rounds, told = 0, []

        def goes_round() -> None:
            nonlocal rounds
            rounds += 1
            if len(told) < 10:
                asyncio.get_running_loop().call_soon(goes_round)

        async def ask() -> None:
            await door.answer(request(10_000), computed())
            told.append(rounds)

        goes_round()
        await asyncio.gather(*(ask() for _ in range(10)))

    assert len(set(told)) == 10


MANY = Answer("tiny", [np.zeros(100, np.float32)] * 1000, 1000, CallTimings(0.0, 0.0, 0.0))
CONTENT = {"data": MANY.items, "model": "tiny"}


async def test_while_a_long_answer_is_written_the_loop_goes_round() -> None:
    async with ready() as subject:
        door, rounds = Door(subject.client, subject.settings, subject.metrics), 0
        writing = asyncio.ensure_future(door.write(request(10_000), CONTENT, MANY))
        while not writing.done():
            await asyncio.sleep(0)
            rounds += 1

    assert rounds > 5
    assert orjson.loads((await writing).body) == {"data": [[0.0] * 100] * 1000, "model": "tiny"}


async def test_a_long_answer_is_written_within_its_deadline() -> None:
    async with ready() as subject:
        door = Door(subject.client, subject.settings, subject.metrics)

        with subject.client.turns.here("light", 1), pytest.raises(DeadlineExceeded):
            await door.write(request(1), CONTENT, MANY)


@pytest.mark.parametrize(
    "body",
    [
        b'{"input":' + b"[" * 8000,
        b'{"model":' * 8000,
        b'{"parameters": {"a": ' + b"[" * 8000,
        b'{"input": "\xff\xfe"}',
        b'{"input": "\xed\xa0\x80"}',
        b"\x00",
        b"",
    ],
    ids=["deep lists", "deep objects", "deep parameters", "no unicode", "half a pair", "a null byte", "nothing"],
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/rerank", "/v2/models/tiny/infer", "/models/tiny", "/embed"])
async def test_what_is_no_json_in_unicode_is_the_callers_fault(path: str, body: bytes) -> None:
    async with ready() as subject:
        answer = await subject.http.post(path, content=body)

    assert answer.status_code in {400, 422}
    assert "Traceback" not in answer.text
    assert subject.engine.submitted == []


async def test_a_body_of_many_million_numbers_is_refused_before_anything_is_made_of_it() -> None:
    async with ready() as subject:
        answer = await subject.http.post("/v1/embeddings", content=b'{"input": [' + b"1," * 3_000_000 + b"1]}")

    assert answer.status_code == 400
    assert "lists and objects" in answer.text


BESIDE = """
import asyncio, psutil
from inference.heap import share_one_heap
share_one_heap()
from starlette.requests import Request
from gateway.call import read_body

async def read():
    pieces = 64
    async def receive():
        nonlocal pieces
        await asyncio.sleep(0)
        pieces -= 1
        return {"type": "http.request", "body": bytes(131072), "more_body": pieces >= 0}
    await asyncio.wait_for(read_body(Request({"type": "http", "headers": []}, receive), 2**24), None)

async def main():
    tasks = [asyncio.create_task(read()) for _ in range(32)]
    most = before = psutil.Process().memory_info().rss
    while not any(task.done() for task in tasks):
        await asyncio.sleep(0)
        most = max(most, psutil.Process().memory_info().rss)
    for task in tasks:
        task.cancel()
    print(most - before)

asyncio.run(main())
"""


def test_bodies_that_arrive_beside_each_other_hold_little_more_than_their_bytes() -> None:
    held = subprocess.run([sys.executable, "-c", BESIDE], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert int(held) < 1.15 * 32 * 64 * 131_072


async def test_a_body_of_a_million_lists_is_refused_before_anything_is_made_of_it() -> None:
    many = b'{"input": [' + b"[]," * 1_000_000 + b"1]}"
    async with ready() as subject:
        answers = [
            await subject.http.post(path, content=many)
            for path in ("/v1/embeddings", "/rerank", "/v2/models/tiny/infer", "/models/tiny")
        ]

    assert [answer.status_code for answer in answers] == [400] * 4
    assert all("lists and objects" in answer.text for answer in answers)
