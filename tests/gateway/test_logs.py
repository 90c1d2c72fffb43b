"""Log lines for people and for machines; none holds what a caller sent, nor does a span."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from gateway.config import TraceConfig
from gateway.logs import Lines, formatter
from gateway.telemetry import CallRecord, Exchange
from gateway.tracing import Tracer, exporter
from inference.scheduler import Refused
from tests.gateway.fakes import MODEL, FakeEngine, Gateway, ready
from tests.otlp import collecting

ROUTE = "/v1/embeddings"
MARKER = "opensesame"
OF_THE_CLIENT = ("httpx2", "httpcore2")  # the tests' own, which tell what they send
TEXT = f"w0 {MARKER}"
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
BODIES: dict[str, dict[str, object]] = {
    "/infinity/rerank": {"query": TEXT, "documents": [TEXT]},
    "/infinity/classify": {"input": [TEXT]},
    "/rerank": {"query": TEXT, "texts": [TEXT]},
    "/v1/rerank": {"query": TEXT, "documents": [TEXT]},
    "/v2/rerank": {"query": TEXT, "documents": [TEXT], "model": "r"},
    "/similarity": {"inputs": {"source_sentence": TEXT, "sentences": [TEXT]}},
    "/v2/embed": {"texts": [TEXT], "model": "e", "input_type": "search_query", "embedding_types": ["float"]},
    "/score": {"text_1": TEXT, "text_2": TEXT},
    "/v1/score": {"text_1": TEXT, "text_2": TEXT},
    "/classify": {"input": TEXT},
    "/pooling": {"input": TEXT, "model": "e"},
    "/decode": {"ids": [4, 5], "model": "e"},
    "/v2/models/{model}/infer": {"inputs": [TENSOR]},
    "/v2/models/{model}/versions/{version}/infer": {"inputs": [TENSOR]},
    "/v2/repository/index": {},
}
EMBEDDED = {
    "/infinity/embeddings": {"input": TEXT, "model": "e"},
    "/v1/embeddings": {"input": TEXT},
    "/embeddings": {"input": TEXT},
}
TASKS = {"e": "embed", "r": "rerank", "c": "classify", "t": "token-classify", "s": "sparse"}


@contextmanager
def written(kind: str) -> Iterator[io.StringIO]:
    """All that is logged, as this kind of lines."""
    out, root = logging.StreamHandler(io.StringIO()), logging.getLogger()
    out.setFormatter(formatter(kind))
    out.addFilter(lambda record: not record.name.startswith(OF_THE_CLIENT))
    before = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(out)
    try:
        yield out.stream
    finally:
        root.removeHandler(out)
        root.setLevel(before)


def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
    told = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("gateway.x", logging.ERROR, __file__, 1, message, (), told)


def raised() -> BaseException:
    """An error that quotes an input, and came of another one."""
    try:
        try:
            raise KeyError(MARKER)
        except KeyError as err:
            raise ValueError(f"{MARKER} is bad") from err
    except ValueError as err:
        return err


async def lines(subject: Gateway, kind: str) -> list[dict[str, Any]]:
    """The lines of one good call, one refused and a probe."""
    with written(kind) as out:
        await subject.embed({"input": ["w0", "w1 w1"]}, **{"x-request-id": "one"})
        subject.engine.refuse = Refused("queue full", 1.0)
        await subject.embed({"input": "w0"}, **{"x-request-id": "two"})
        await subject.http.get("/livez")
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    return [line for line in told if line["logger"] == "headrace.access"]


@pytest.mark.anyio
async def test_a_call_is_one_line_of_json_that_says_where_its_time_went() -> None:
    async with ready() as subject:
        one, two = await lines(subject, "json")

    measured = {name: one.pop(name) for name in ("time", "ms", "tokenise_ms", "queue_ms", "device_ms", "batch")}
    assert one == {
        "level": "info",
        "logger": "headrace.access",
        "message": "call",
        "method": "POST",
        "id": "one",
        "route": ROUTE,
        "status": 200,
        "outcome": "ok",
        "model": MODEL,
        "items": 2,
        "tokens": 7,
        "batch_size": 2,
    }
    assert measured["time"].endswith("+00:00")
    assert measured["ms"] >= measured["queue_ms"] + measured["device_ms"] > 0
    assert (two["status"], two["outcome"], two["code"], two["reason"]) == (429, "refused", "overloaded", "queue_full")
    assert "queue_ms" not in two


@pytest.mark.anyio
async def test_where_there_are_traces_a_line_names_its_own() -> None:
    with collecting() as collector:
        tracer = Tracer(TraceConfig(collector.url), exporter(collector.url))
        async with ready(traced=tracer.around) as subject:
            one, _ = await lines(subject, "json")
        tracer.close()

        assert one["trace_id"] in {span.trace_id.hex() for span in collector.spans}


@pytest.mark.parametrize("kind", ["console", "json"])
def test_an_error_is_told_by_its_classes_and_places_and_not_by_its_message(kind: str) -> None:
    line = formatter(kind).format(record("request x failed", raised()))

    assert "request x failed" in line
    assert line.index("builtins.KeyError") < line.index("builtins.ValueError")
    assert "test_logs.py" in line
    assert MARKER not in line.replace(f"raise KeyError({MARKER})", "")


def test_a_chain_of_errors_that_bites_its_tail_ends() -> None:
    first, second = ValueError("a"), KeyError("b")
    first.__cause__, second.__cause__ = second, first

    line = formatter("console").format(record("failed", first))

    assert line.count("builtins.") == 2


@pytest.mark.parametrize("message", ['a "quoted" name', "two\nlines", "\x1b[31m red", "\udcff not unicode"])
def test_whatever_a_message_holds_a_line_of_json_is_one_line_of_json(message: str) -> None:
    line = formatter("json").format(record(message))

    assert line.isprintable()
    assert json.loads(line)["message"] == message


def test_the_process_writes_the_kind_of_lines_that_was_asked_for() -> None:
    program = "import logging; from gateway import config, logs; logs.start(config.load([{}], {{}}).log)"
    says = f"{program}; logging.getLogger('gateway').info('hello')"

    done = subprocess.run(
        [sys.executable, "-c", says.format("'--log-format=json'")], capture_output=True, text=True, check=True
    )

    assert json.loads(done.stderr)["message"] == "hello"


@pytest.mark.anyio
async def test_no_line_and_no_span_holds_what_a_caller_sent() -> None:
    engine = FakeEngine(TASKS)
    with written("console") as console, written("json") as machine, collecting() as collector:
        tracer = Tracer(TraceConfig(collector.url), exporter(collector.url))
        async with ready(engine, traced=tracer.around) as subject:
            statuses = await everything(subject)
        tracer.close()
        sent = b"".join(collector.bodies)

    assert statuses >= {200, 400, 404, 415, 500}
    assert console.getvalue().count("headrace.access") == machine.getvalue().count("headrace.access") > 200
    assert b"POST /v1/embeddings" in sent
    assert MARKER not in console.getvalue().lower()
    assert MARKER not in machine.getvalue().lower()
    assert MARKER.encode() not in sent.lower()


async def everything(subject: Gateway) -> set[int]:
    """Every way to send the marker over every path, good and bad; returns the statuses of the answers."""
    statuses = set()
    key = {"authorization": f"Bearer {MARKER}", "x-api-key": MARKER, "api-key": MARKER, "user-agent": MARKER}
    for path, methods in subject.app.openapi()["paths"].items():
        place = path.replace("{model}", "e").replace("{name}", "e").replace("{version}", "1")
        place = f"{place.replace('{task}', 'feature-extraction')}?key={MARKER}"
        for method in methods:
            good = BODIES.get(path) or EMBEDDED.get(path) or {"inputs": TEXT}
            bodies = [good, {**good, MARKER: 1}, {**good, "model": MARKER}, {name: [MARKER, 1] for name in good}]
            raw = [json.dumps(body).encode() for body in bodies] + [f'{{"inputs": "{MARKER}'.encode()]
            for content in raw:
                answer = await subject.http.request(
                    method, place, content=content, headers={"content-type": "application/json", **key}
                )
                statuses.add(answer.status_code)
            statuses |= await badly(subject, method, place, raw[0])
    for method, place in (("GET", f"/{MARKER}"), ("POST", f"/models/{MARKER}"), ("POST", f"/v2/models/{MARKER}/infer")):
        await subject.http.request(method, place, content=b"{}", headers={"content-type": "application/json"})
    return statuses


async def badly(subject: Gateway, method: str, place: str, content: bytes) -> set[int]:
    """The same call to an engine that fails with the input in its message, and with a type nobody knows."""
    subject.engine.error = ValueError(MARKER)
    failed = await subject.http.request(method, place, content=content, headers={"content-type": "application/json"})
    subject.engine.error = None
    odd = await subject.http.request(method, place, content=content, headers={"content-type": f"text/{MARKER}"})
    timed = {"content-type": "application/json", "x-request-timeout-ms": MARKER, "x-request-priority": MARKER}
    bad = await subject.http.request(method, place, content=content, headers=timed)
    return {failed.status_code, odd.status_code, bad.status_code}


def call_record(route: str) -> CallRecord:
    return CallRecord("POST", Exchange("id", route, status=200))


@pytest.mark.anyio
async def test_lines_of_calls_are_written_together_and_any_other_line_at_once_behind_them() -> None:
    out = io.StringIO()
    lines = Lines(out)

    lines.handle(call_record("/first"))
    lines.handle(call_record("/second"))
    assert out.getvalue() == ""
    lines.handle(logging.LogRecord("other", logging.INFO, "", 0, "third", (), None))
    assert re.findall("/first|/second|third", out.getvalue()) == ["/first", "/second", "third"]
    lines.handle(call_record("/fourth"))
    while "/fourth" not in out.getvalue():
        await asyncio.sleep(0.01)


def test_without_a_loop_no_line_is_held() -> None:
    out = io.StringIO()

    Lines(out).handle(call_record("/only"))

    assert "/only" in out.getvalue()


@pytest.mark.anyio
async def test_a_full_disk_harms_no_call() -> None:
    harmed = True
    with suppress(OSError), open("/dev/full", "w", buffering=1) as out:  # it fails once more at its end
        lines = Lines(out)
        lines.handle(call_record("/lost"))
        lines.flush()
        lines.handle(call_record("/lost too"))
        lines.handle(logging.LogRecord("other", logging.INFO, "", 0, "lost as well", (), None))
        harmed = False
    assert not harmed
