import asyncio

import pytest

from inference import CannotServe, DeviceLost
from tests.fakes import FakeClock
from tests.gateway.fakes import FakeEngine, gateway, ready

pytestmark = pytest.mark.anyio

DEATH = "ignore::pytest.PytestUnhandledThreadExceptionWarning"  # the device thread is meant to die


async def test_while_starting_it_is_alive_and_not_ready_and_refuses_calls() -> None:
    subject = gateway()
    async with subject.http as http:
        subject.engine.loading.clear()
        starting = asyncio.create_task(subject.lifecycle.start())
        probes = [await http.get("/livez"), await http.get("/readyz")]
        refused = await subject.embed({"input": "w0"})
        models = await http.get("/v1/models")
        subject.engine.loading.set()
        await starting
        ready_now = await http.get("/readyz")
        await subject.lifecycle.stop()

    assert [probe.status_code for probe in probes] == [200, 503]
    assert probes[1].text == "starting\n"
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert models.json()["data"] == []
    assert ready_now.status_code == 200


async def test_once_ready_both_probes_are_green() -> None:
    async with ready() as subject:
        answers = [await subject.http.get(path) for path in ("/livez", "/readyz")]

    assert [answer.status_code for answer in answers] == [200, 200]


async def test_draining_fails_readiness_at_once_and_still_answers_calls() -> None:
    async with ready() as subject:
        subject.lifecycle.drain()
        probes = [await subject.http.get("/livez"), await subject.http.get("/readyz")]
        answer = await subject.embed({"input": "w0"})

    assert [probe.status_code for probe in probes] == [200, 503]
    assert probes[1].text == "draining\n"
    assert answer.status_code == 200


async def test_while_draining_every_answer_asks_its_connection_to_close() -> None:
    async with ready() as subject:
        before = await subject.embed({"input": "w0"})
        subject.lifecycle.drain()
        after = [await subject.embed({"input": "w0"}), await subject.http.get("/nowhere"), await subject.embed({})]

    assert "connection" not in before.headers
    assert [answer.headers["connection"] for answer in after] == ["close"] * 3


async def test_stopping_answers_what_was_taken() -> None:
    async with ready() as subject:
        subject.engine.device.gate.clear()
        call = asyncio.create_task(subject.embed({"input": "w0"}))
        await asyncio.to_thread(subject.engine.device.entered.wait)
        subject.lifecycle.drain()
        stopping = asyncio.create_task(subject.lifecycle.stop())
        subject.engine.device.gate.set()
        await stopping
        answer = await call

    assert answer.status_code == 200
    assert subject.lifecycle.state == "stopped"


async def test_stopped_it_refuses_calls() -> None:
    async with ready() as subject:
        await subject.lifecycle.stop()
        answer = await subject.embed({"input": "w0"})

    assert answer.status_code == 503


async def test_giving_up_fails_every_open_call_and_counts_them() -> None:
    async with ready() as subject:
        subject.engine.device.gate.clear()
        calls = [asyncio.create_task(subject.embed({"input": "w0"})) for _ in range(3)]
        await subject.engine.until(lambda: len(subject.engine.submitted) == 3)
        await asyncio.to_thread(subject.engine.device.entered.wait)
        abandoned = subject.lifecycle.abandon()
        answers = await asyncio.gather(*calls)

    assert abandoned == 3
    assert [answer.status_code for answer in answers] == [503] * 3


async def test_a_model_that_cannot_be_served_is_never_ready() -> None:
    subject = gateway()
    subject.engine.cannot_serve = CannotServe("no such folder")
    async with subject.http as http:
        with pytest.raises(CannotServe):
            await subject.lifecycle.start()
        answer = await http.get("/readyz")

    assert answer.status_code == 503


async def test_a_stuck_device_fails_both_probes_and_the_calls_that_follow() -> None:
    clock = FakeClock(1000.0)
    async with ready(FakeEngine(clock=clock)) as subject:
        subject.engine.device.gate.clear()
        call = asyncio.create_task(subject.embed({"input": "w0"}))
        await asyncio.to_thread(subject.engine.device.entered.wait)
        before = await subject.http.get("/livez")
        clock.now += subject.engine.limits.stuck_after_s + 1
        probes = [await subject.http.get("/livez"), await subject.http.get("/readyz")]
        refused = await subject.embed({"input": "w0"})
        subject.engine.device.gate.set()
        await call

    assert before.status_code == 200
    assert [probe.status_code for probe in probes] == [503, 503]
    assert probes[1].text == "device lost\n"
    assert refused.status_code == 503
    assert len(subject.engine.submitted) == 1


@pytest.mark.filterwarnings(DEATH)
@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), DeviceLost("secret"), SystemExit(), MemoryError()])
async def test_a_device_that_died_answers_its_callers_and_fails_both_probes(error: BaseException) -> None:
    async with ready() as subject:
        subject.engine.device.fail = error
        first = await subject.embed({"input": "w0"})
        probes = [await subject.http.get("/livez"), await subject.http.get("/readyz")]
        later = await subject.embed({"input": "w0"})

    assert [first.status_code, later.status_code] == [503, 503]
    assert "secret" not in first.text
    assert [probe.status_code for probe in probes] == [503, 503]


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_a_probe_may_be_a_head_request(path: str) -> None:
    async with ready() as subject:
        answer = await subject.http.head(path)

    assert answer.status_code == 200
