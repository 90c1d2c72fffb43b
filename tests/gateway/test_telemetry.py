import asyncio
import logging
import re

import pytest

from gateway import __version__
from gateway.config import LogConfig, Settings
from gateway.telemetry import Metrics, server_timing
from inference import CallTimings, Dispatched, EngineConfig, Limits, Report
from inference.scheduler import Refused
from tests.gateway.fakes import MODEL, gateway, ready

ROUTE = "/v1/embeddings"
SECRET = "w0 opensesame"


@pytest.mark.anyio
@pytest.mark.parametrize("told", ["a", "0123-abc.DEF_7:8", "x" * 128])
async def test_a_request_id_of_the_caller_is_returned(told: str) -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": "w0"}, **{"x-request-id": told})

    assert answer.headers["x-request-id"] == told


@pytest.mark.anyio
@pytest.mark.parametrize("told", ["", " ", "a b", "x" * 129, "a\tb", 'a"b', "a/b", "é", "<script>", "a,b", "%0d%0a"])
async def test_a_request_id_that_could_harm_a_log_is_replaced(told: str) -> None:
    async with ready() as subject:
        answer = await subject.http.get("/livez", headers=[(b"x-request-id", told.encode())])

    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


@pytest.mark.anyio
async def test_every_answer_has_a_request_id_of_its_own() -> None:
    async with ready() as subject:
        answers = [await subject.http.get(path) for path in ("/livez", "/v1/models", "/nowhere", "/docs", "/livez")]
        answers += [await subject.embed({"input": 5}), await subject.embed({"input": "w0"})]

    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


def test_server_timing_is_in_milliseconds() -> None:
    header = server_timing(CallTimings(tokenise_s=0.001, queue_s=0.25, device_s=0.0000049))

    assert header == "tokenise;dur=1.00, queue;dur=250.00, device;dur=0.00"


@pytest.mark.anyio
async def test_an_answer_says_where_its_time_went() -> None:
    async with ready() as subject:
        answer = await subject.embed({"input": ["w0", "w1"]})

    number = r"\d+\.\d\d"
    assert re.fullmatch(
        f"tokenise;dur={number}, queue;dur={number}, device;dur={number}", answer.headers["server-timing"]
    )


@pytest.mark.anyio
async def test_a_call_moves_every_metric_of_its_way() -> None:
    async with ready() as subject:
        await subject.embed({"input": ["w0", "w1 w1"]})
        await subject.lifecycle.stop()  # the last report comes after its answers

    moved = {
        ("headrace_requests_total", 1): {"route": ROUTE, "model": MODEL, "outcome": "ok"},
        ("headrace_request_seconds_count", 1): {"route": ROUTE, "model": MODEL},
        ("headrace_tokenise_seconds_count", 1): {"model": MODEL},
        ("headrace_queue_seconds_count", 2): {"model": MODEL},
        ("headrace_device_seconds_count", 1): {"model": MODEL},
        ("headrace_batch_size_sum", 2): {"model": MODEL},
        ("headrace_batch_tokens_sum", 7): {"model": MODEL},
        ("headrace_padding_ratio_count", 1): {"model": MODEL},
        ("headrace_model_load_seconds", 1.5): {"model": MODEL},
        ("headrace_model_warm_up_seconds", 2.5): {"model": MODEL},
        ("headrace_build_info", 1): {"version": __version__},
        ("headrace_in_flight", 0): {},
    }
    assert {key: subject.metric(key[0], **labels) for key, labels in moved.items()} == {key: key[1] for key in moved}


@pytest.mark.anyio
async def test_tasks_are_counted_while_they_last() -> None:
    async with ready() as subject:
        before = subject.metric("headrace_tasks")
        more = [asyncio.create_task(asyncio.Event().wait()) for _ in range(7)]
        during = subject.metric("headrace_tasks")
        for task in more:
            task.cancel()
        await asyncio.wait(more)
        after = subject.metric("headrace_tasks")

    assert during == before + 7
    assert after == before


@pytest.mark.anyio
async def test_what_waits_is_counted_while_it_waits() -> None:
    async with ready() as subject:
        subject.engine.device.gate.clear()
        running = asyncio.create_task(subject.embed({"input": "w0"}))
        await asyncio.to_thread(subject.engine.device.entered.wait)
        waiting = asyncio.create_task(subject.embed({"input": ["w2", "w1 w1"]}))
        await subject.engine.until(lambda: len(subject.engine.submitted) == 2)
        await subject.http.get("/livez")  # a turn of the loop: the second call is in the queue now
        names = ("waiting_entries", "waiting_tokens")
        held = [subject.metric(f"headrace_{name}", model=MODEL) for name in names]
        oldest = subject.metric("headrace_oldest_waiting_seconds", model=MODEL)
        in_flight = subject.metric("headrace_in_flight")
        subject.engine.device.gate.set()
        await asyncio.gather(running, waiting)
        after = [subject.metric(f"headrace_{name}", model=MODEL) for name in names]

    assert held == [2, 3 + 4]
    assert oldest > 0
    assert in_flight == 2
    assert after == [0, 0]
    assert subject.metric("headrace_in_flight") == 0


@pytest.mark.anyio
async def test_queue_time_is_observed_when_a_batch_leaves_not_when_it_ends() -> None:
    async with ready() as subject:
        subject.engine.device.gate.clear()
        call = asyncio.create_task(subject.embed({"input": "w0"}))
        await asyncio.to_thread(subject.engine.device.entered.wait)
        while_running = subject.metric("headrace_queue_seconds_count", model=MODEL)
        subject.engine.device.gate.set()
        await call

    assert while_running == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reason", "label"), [("queue full", "queue_full"), ("deadline out of reach", "deadline_out_of_reach")]
)
async def test_refusals_are_counted_by_their_reason_and_model(reason: str, label: str) -> None:
    async with ready() as subject:
        subject.engine.refuse = Refused(reason, 1.0)
        await subject.embed({"input": "w0"})

    assert subject.metric("headrace_refusals_total", reason=label) == 1
    assert subject.metric("headrace_requests_total", route=ROUTE, model=MODEL, outcome="refused") == 1
    assert subject.metric("headrace_request_seconds_count", route=ROUTE, model=MODEL) == 0  # refused fast is no answer


@pytest.mark.anyio
async def test_calls_that_expire_are_counted_as_such() -> None:
    async with ready() as subject:
        subject.engine.device.gate.clear()
        await subject.embed({"input": "w0"}, **{"x-request-timeout-ms": "10"})

    assert subject.metric("headrace_refusals_total", reason="deadline_exceeded") == 1
    assert subject.metric("headrace_requests_total", route=ROUTE, model=MODEL, outcome="expired") == 1


@pytest.mark.anyio
async def test_calls_that_come_too_late_are_refusals_and_probes_are_not() -> None:
    async with ready() as subject:
        await subject.lifecycle.stop()
        await subject.embed({"input": "w0"})
        await subject.http.get("/readyz")

    refusals = [line for line in subject.exposition().splitlines() if line.startswith("headrace_refusals_total")]
    assert refusals == ['headrace_refusals_total{reason="draining"} 1.0']


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "error", "outcome"),
    [
        ({"input": "w0"}, None, "ok"),
        ({"input": ""}, None, "invalid"),
        ({"input": "w0"}, ZeroDivisionError(), "failed"),
    ],
)
async def test_calls_are_counted_by_their_outcome(body: object, error: Exception | None, outcome: str) -> None:
    async with ready() as subject:
        subject.engine.error = error
        await subject.embed(body)

    assert subject.metric("headrace_requests_total", route=ROUTE, model=MODEL, outcome=outcome) == 1


def test_a_batch_that_failed_is_counted_by_its_error() -> None:
    metrics = Metrics(0.1)

    metrics.engine_event(Report(MODEL, 1, 3, 4, 0.1, 0.2, error="OutOfMemory"))

    labels = {"model": MODEL, "error": "OutOfMemory"}
    assert metrics.registry.get_sample_value("headrace_batch_failures_total", labels) == 1


def test_padding_is_the_share_of_computed_tokens_that_nobody_sent() -> None:
    metrics = Metrics(0.1)

    metrics.engine_event(Report(MODEL, sequences=2, tokens=6, padded_tokens=8, predicted_s=0.1, device_s=0.2))
    metrics.engine_event(Dispatched(MODEL, (0.5, 0.75)))

    assert metrics.registry.get_sample_value("headrace_padding_ratio_sum", {"model": MODEL}) == 0.25
    assert metrics.registry.get_sample_value("headrace_queue_seconds_sum", {"model": MODEL}) == 1.25
    assert metrics.registry.get_sample_value("headrace_device_seconds_sum", {"model": MODEL}) == 0.2


@pytest.mark.anyio
@pytest.mark.parametrize("target_s", [0.1, 0.0371])
async def test_the_latency_target_has_a_bucket_of_its_own(target_s: float) -> None:
    async with ready(settings=Settings(engine=EngineConfig(limits=Limits(latency_target_s=target_s)))) as subject:
        await subject.embed({"input": "w0"})
        await subject.lifecycle.stop()
        exposition = subject.exposition()

    for name in ("request", "queue", "tokenise", "device"):
        assert re.search(rf'headrace_{name}_seconds_bucket{{[^}}]*le="{target_s}"', exposition), name
        assert re.search(rf'headrace_{name}_seconds_bucket{{[^}}]*le="0.001"', exposition), name


@pytest.mark.anyio
async def test_no_label_holds_a_text_that_a_caller_made_up() -> None:
    marker = "opensesame"
    async with ready() as subject:
        await subject.embed({"input": marker, "model": marker})
        await subject.embed({"input": marker, marker: 1})
        await subject.embed({"input": f"{marker} w0 " * 20})
        await subject.embed({"input": marker}, **{"x-request-id": marker, "user-agent": marker, "host": marker})
        await subject.embed({"input": marker}, **{"x-request-timeout-ms": marker, "content-type": marker})
        await subject.http.get(f"/{marker}?{marker}={marker}")
        await subject.http.request(marker.upper(), "/v1/embeddings")
        await subject.http.get(f"/docs/assets/{marker}")
        exposition = subject.exposition()

    assert marker not in exposition.lower()


@pytest.mark.anyio
async def test_every_call_has_one_line_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with ready() as subject:
        await subject.embed({"input": [SECRET, "w1"]}, **{"x-request-id": "one"})
        await subject.embed({"input": SECRET, "model": SECRET}, **{"x-request-id": "two"})
        await subject.embed({"input": f"{SECRET} " * 20}, **{"x-request-id": "three"})
        await subject.http.get(f"/{SECRET}", headers={"x-request-id": "four"})
        subject.engine.error = ZeroDivisionError("broken")
        await subject.embed({"input": SECRET}, **{"x-request-id": "five"})

    lines = [record.getMessage() for record in caplog.records if record.name == "headrace.access"]
    number = r"\d+\.\dms"
    expected = [
        f"POST {ROUTE} 200 {number} id=one model=tiny items=2 tokens=7",
        f"POST {ROUTE} 404 {number} id=two model=- items=0 tokens=0 code=model_not_found",
        f"POST {ROUTE} 400 {number} id=three model=tiny items=0 tokens=0 code=invalid_request",
        f"GET other 404 {number} id=four model=- items=0 tokens=0 code=not_found",
        f"POST {ROUTE} 500 {number} id=five model=tiny items=0 tokens=0 code=internal_error",
    ]
    assert len(lines) == len(expected)
    assert all(map(re.fullmatch, expected, lines)), lines
    ours = [record for record in caplog.records if not record.name.startswith("httpx2")]
    assert all("opensesame" not in f"{record.getMessage()}{record.exc_text}" for record in ours)


@pytest.mark.anyio
async def test_a_failure_of_ours_leaves_its_trace_under_the_request_id(caplog: pytest.LogCaptureFixture) -> None:
    async with ready() as subject:
        subject.engine.error = ZeroDivisionError("broken")
        await subject.embed({"input": "w0"}, **{"x-request-id": "five"})

    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "five" in record.getMessage()
    assert "ZeroDivisionError: broken" in caplog.text


@pytest.mark.anyio
async def test_probes_have_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with ready() as subject:
        await subject.http.get("/livez")
        await subject.http.get("/readyz")

    assert [record for record in caplog.records if record.name == "headrace.access"] == []


@pytest.mark.anyio
async def test_the_lines_can_be_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with ready(settings=Settings(log=LogConfig(access=False))) as subject:
        await subject.embed({"input": "w0"})

    assert [record for record in caplog.records if record.name == "headrace.access"] == []


DEMAND = ("demand_ratio", "offered_ratio", "in_flight_ratio", "capacity_tokens_per_second")


@pytest.mark.anyio
async def test_demand_is_told_while_ready_and_neither_before_nor_while_draining() -> None:
    subject = gateway()
    before = subject.exposition()
    await subject.lifecycle.start()
    await subject.embed({"input": "w0"})
    while_ready = subject.exposition()
    subject.lifecycle.drain()
    while_draining = subject.exposition()
    await subject.lifecycle.stop()

    for name in DEMAND:
        assert f"\nheadrace_{name} " in while_ready, name
        assert name not in before, name
        assert name not in while_draining, name
    assert "headrace_waiting_entries" in while_draining


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_demand_is_not_told_once_the_device_is_lost() -> None:
    async with ready() as subject:
        subject.engine.device.fail = ZeroDivisionError()
        await subject.embed({"input": "w0"})
        await subject.engine.lost()
        exposition = subject.exposition()

    assert not any(f"headrace_{name}" in exposition for name in DEMAND)


@pytest.mark.anyio
async def test_the_demand_ratio_is_the_larger_of_its_terms() -> None:
    async with ready() as subject:
        await subject.embed({"input": "w0"})
        demand, offered, in_flight = (
            subject.metric(f"headrace_{name}") for name in ("demand_ratio", "offered_ratio", "in_flight_ratio")
        )

    assert demand == pytest.approx(max(offered, in_flight), rel=0.1)  # read one after the other: they fade
    assert offered > 0


@pytest.mark.anyio
async def test_the_fitted_cost_is_told_by_its_parts() -> None:
    async with ready() as subject:
        parts = {
            of: subject.metric("headrace_cost_seconds", model=MODEL, of=of)
            for of in ("batch", "token", "sequence", "squared_token")
        }

    assert parts == {"batch": 1e-3, "token": 1e-5, "sequence": 0.0, "squared_token": 0.0}  # the guess of a new model
