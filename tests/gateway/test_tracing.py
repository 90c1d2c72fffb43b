"""Traces as a collector gets them: real exporter, real HTTP, decoded protobuf."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway import __version__, commands
from gateway.config import TraceConfig
from gateway.tracing import Tracer, exporter
from inference import Limits
from inference.scheduler import Refused
from tests.gateway.fakes import MODEL, FakeEngine, Gateway, ready
from tests.otlp import Collector, collecting, facts

ROUTE = "/v1/embeddings"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@asynccontextmanager
async def traced(engine: FakeEngine | None = None) -> AsyncIterator[tuple[Gateway, Collector]]:
    """A gateway, and the collector that its spans go to."""
    with collecting() as collector:
        tracer = Tracer(TraceConfig(collector.url), exporter(collector.url))
        collector.flush = tracer.close
        async with ready(engine, traced=tracer.around) as subject:
            yield subject, collector
        tracer.close()


@pytest.mark.anyio
async def test_a_call_is_a_span_with_its_queue_and_its_run_inside() -> None:
    async with traced() as (subject, collector):
        answer = await subject.embed({"input": ["w0", "w1 w1"]}, **{"x-request-id": "one"})

        [call] = collector.named(f"POST {ROUTE}")
        [queue], [run] = collector.named("queue"), collector.named("device")
        told = facts(call)

    named, flags = answer.headers["traceresponse"][:-2], int(answer.headers["traceresponse"][-2:], 16)
    assert named == f"00-{call.trace_id.hex()}-{call.span_id.hex()}-"
    assert flags & 1  # it is kept
    assert told.pop("headrace.tokenise_seconds") > 0  # type: ignore[operator]
    assert told == {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "http.response.status_code": 200,
        "headrace.request_id": "one",
        "headrace.outcome": "ok",
        "headrace.model": MODEL,
        "headrace.items": 2,
        "headrace.tokens": 7,
    }
    assert {(part.trace_id, part.parent_span_id) for part in (queue, run)} == {(call.trace_id, call.span_id)}
    assert queue.end_time_unix_nano == run.start_time_unix_nano
    assert call.start_time_unix_nano <= queue.start_time_unix_nano + 1_000_000  # two clocks are read a moment apart
    assert run.end_time_unix_nano <= call.end_time_unix_nano + 1_000_000
    assert collector.resource["service.name"] == "headrace"
    assert collector.resource["service.version"] == __version__


@pytest.mark.anyio
async def test_calls_that_ran_together_link_to_one_span_of_their_batch() -> None:
    async with traced() as (subject, collector):
        subject.engine.device.gate.clear()
        first = asyncio.create_task(subject.embed({"input": "w0"}))
        await asyncio.to_thread(subject.engine.device.entered.wait)
        together = [asyncio.create_task(subject.embed({"input": word})) for word in ("w1", "w2 w2", "w3")]
        await subject.engine.until(lambda: len(subject.engine.submitted) == 4)
        await subject.http.get("/livez")  # a turn of the loop: they are in the queue now
        subject.engine.device.gate.set()
        await asyncio.gather(first, *together)

        alone, batch = sorted(collector.named("batch"), key=lambda span: span.start_time_unix_nano)
        linked = [(link.trace_id, link.span_id) for queue in collector.named("queue") for link in queue.links]

    assert facts(batch)["headrace.batch.size"] == 3
    assert facts(batch)["headrace.batch.tokens"] == 3 + 4 + 3
    assert batch.parent_span_id == b""
    assert sorted(linked) == sorted([(alone.trace_id, alone.span_id)] + [(batch.trace_id, batch.span_id)] * 3)


@pytest.mark.anyio
async def test_a_call_is_part_of_the_trace_that_its_caller_names() -> None:
    async with traced() as (subject, collector):
        answer = await subject.embed({"input": "w0"}, traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=1")

        [call] = collector.named(f"POST {ROUTE}")

    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert call.trace_state == "vendor=1"
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{call.span_id.hex()}-01"


@pytest.mark.anyio
async def test_what_the_caller_does_not_keep_is_not_kept_nor_is_its_batch() -> None:
    async with traced() as (subject, collector):
        answer = await subject.embed({"input": "w0"}, traceparent=f"00-{TRACE}-{PARENT}-00")

        assert collector.spans == []
    assert answer.headers["traceresponse"].startswith(f"00-{TRACE}-")
    assert answer.headers["traceresponse"].endswith("-00")


@pytest.mark.anyio
@pytest.mark.parametrize("parent", ["", f"00-{'0' * 32}-{PARENT}-01", "é" * 60])
async def test_a_parent_that_makes_no_sense_is_none(parent: str) -> None:
    async with traced() as (subject, collector):
        answer = await subject.http.post(ROUTE, json={"input": "w0"}, headers=[(b"traceparent", parent.encode())])

        [call] = collector.named(f"POST {ROUTE}")

    assert answer.status_code == 200
    assert call.parent_span_id == b""


@given(st.binary(max_size=80), st.binary(max_size=200))
def test_no_context_that_a_caller_makes_up_breaks_a_call(parent: bytes, state: bytes) -> None:
    tracer = Tracer(TraceConfig(), InMemorySpanExporter())
    headers = [(b"traceparent", parent), (b"tracestate", state), (b"tracestate", parent)]

    span = tracer.begin({"type": "http", "method": "POST", "headers": headers})

    assert span.get_span_context().is_valid
    tracer.close()


@pytest.mark.anyio
async def test_probes_leave_no_span() -> None:
    async with traced() as (subject, collector):
        for path in ("/livez", "/readyz", "/health"):
            await subject.http.get(path)

        assert collector.spans == []


@pytest.mark.anyio
async def test_a_call_that_fails_says_so_in_its_span() -> None:
    async with traced() as (subject, collector):
        await subject.embed({"input": ""}, **{"x-request-id": "ours"})
        subject.engine.refuse = Refused("queue full", 1.0)
        await subject.embed({"input": "w0"})
        subject.engine.refuse = None
        subject.engine.error = ZeroDivisionError("secret")
        await subject.embed({"input": "w0"})
        await subject.http.get("/nowhere")

        calls = [(span.name, span.status.code, facts(span)) for span in collector.spans]

    assert [(name, status) for name, status, _ in calls] == [
        (f"POST {ROUTE}", 0),
        (f"POST {ROUTE}", 0),
        (f"POST {ROUTE}", 2),
        ("GET other", 0),
    ]
    told = [(facts["error.type"], facts["headrace.outcome"]) for _, _, facts in calls]
    assert told == [
        ("invalid_request", "invalid"),
        ("overloaded", "refused"),
        ("internal_error", "failed"),
        ("not_found", "invalid"),
    ]


@pytest.mark.anyio
async def test_a_kept_answer_waited_for_no_batch() -> None:
    limits = Limits(max_batch_tokens=64, cache_bytes=100_000)
    async with traced(FakeEngine(limits=limits)) as (subject, collector):
        for _ in range(2):
            await subject.embed({"input": "w0"})

        assert len(collector.named(f"POST {ROUTE}")) == 2
        assert len(collector.named("queue")) == 1


@pytest.mark.anyio
async def test_without_an_endpoint_there_is_no_trace() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": "w0"}, traceparent=f"00-{TRACE}-{PARENT}-01")

    assert "traceresponse" not in answer.headers


def test_a_stop_does_not_wait_long_for_a_collector_that_hangs() -> None:
    with collecting() as collector:
        collector.gate.clear()
        tracer = Tracer(TraceConfig(collector.url), exporter(collector.url), flush_s=0.01)
        span = tracer.begin({"type": "http", "method": "POST", "headers": []})
        span.end()

        tracer.close()

        assert not collector.gate.is_set()


@pytest.mark.parametrize(
    "missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"]
)
def test_an_endpoint_without_the_library_is_a_mistake_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    monkeypatch.delitem(sys.modules, "gateway.tracing")
    monkeypatch.delattr("gateway.tracing")
    monkeypatch.setitem(sys.modules, missing, None)

    code = commands.serve(["--otlp-endpoint", "http://127.0.0.1:4318"])

    assert code == 2
    said = capsys.readouterr().err
    assert f"otlp-endpoint: traces need {missing}, which is missing; pip install 'headrace[tracing]'" in said
