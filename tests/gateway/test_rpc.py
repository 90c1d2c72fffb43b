import asyncio
import gzip
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

from gateway import open_inference_pb2 as pb
from gateway.config import DeadlineConfig, DrainConfig, HttpConfig, Settings
from gateway.kserve_rpc import METHODS, SERVICE, UNSUPPORTED
from gateway.rpc import Rpc
from tests.gateway.fakes import HIDDEN, MODEL, FakeEngine, Gateway, gateway, ready, serving

pytestmark = pytest.mark.anyio

HTTP = HttpConfig(grpc_port=0)
SETTINGS = Settings(http=HTTP)
INFER = f"/{SERVICE}/ModelInfer"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def asked(text: str = "w0") -> pb.ModelInferRequest:
    contents = pb.InferTensorContents(bytes_contents=[text.encode()])
    tensor = pb.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[1], contents=contents)
    return pb.ModelInferRequest(model_name=MODEL, inputs=[tensor])


def infer(channel: grpc.aio.Channel, message: pb.ModelInferRequest | None = None, **terms: Any) -> Any:
    call = channel.unary_unary(INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
    return call(message or asked(), **terms)


async def outcome(call: Any) -> tuple[grpc.StatusCode, str]:
    return await call.code(), await call.details()


@asynccontextmanager
async def listening(subject: Gateway) -> AsyncIterator[tuple[Rpc, grpc.aio.Channel]]:
    rpc = Rpc(subject.app, subject.settings.http, subject.settings.deadlines)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await rpc.start()}") as channel:
        yield rpc, channel
        await rpc.stop(0)


async def test_a_deadline_is_the_calls_own_and_a_longer_one_than_the_longest_is_that() -> None:
    settings = replace(SETTINGS, deadlines=DeadlineConfig(default_timeout_s=20, max_timeout_s=60))
    async with ready(FakeEngine(clock=lambda: 0.0), settings) as subject, listening(subject) as (_, channel):
        for timeout in (5, 3600, None):
            await infer(channel, timeout=timeout)
        await infer(channel, timeout=50, metadata=(("x-request-timeout-ms", "7"),))

    deadlines = [call.deadline for call in subject.engine.submitted]
    assert 4 < deadlines[0] < 6
    assert deadlines[1:3] == [60, 20]
    assert 40 < deadlines[3] < 51  # what is sent is rounded up


async def test_the_work_of_a_caller_that_goes_is_cancelled() -> None:
    async with ready(settings=SETTINGS) as subject, listening(subject) as (_, channel):
        subject.engine.device.gate.clear()
        call = infer(channel)
        await subject.engine.until(lambda: len(subject.engine.submitted) == 1)
        call.cancel()
        await subject.engine.until(lambda: subject.engine.cancelled == 1)

    assert subject.metric("headrace_requests_total", route=INFER, model=MODEL, outcome="cancelled") == 1


async def test_a_call_ends_at_its_deadline_whatever_the_device_does() -> None:
    settings = replace(SETTINGS, deadlines=DeadlineConfig(default_timeout_s=0.05))
    async with ready(settings=settings) as subject, listening(subject) as (_, channel):
        subject.engine.device.gate.clear()
        told = await outcome(infer(channel))
        noticed = await outcome(infer(channel, timeout=0.05))

    assert [told[0], noticed[0]] == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2


async def test_calls_are_counted_logged_and_named_like_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headrace.access")
    async with ready(settings=SETTINGS) as subject, listening(subject) as (_, channel):
        call = infer(channel, metadata=(("x-request-id", "mine"), ("x-trace-bin", b"\x00\xff")))
        await call
        trailers = dict(await call.trailing_metadata())
        await outcome(infer(channel, asked("")))
        await channel.unary_unary(f"/{SERVICE}/ServerLive")(b"")

    assert trailers["x-request-id"] == "mine"
    assert trailers["server-timing"].startswith("tokenise;dur=")
    assert trailers.keys() == {"x-request-id", "server-timing"}
    assert subject.metric("headrace_requests_total", route=INFER, model=MODEL, outcome="ok") == 1
    assert subject.metric("headrace_requests_total", route=INFER, model=MODEL, outcome="invalid") == 1
    lines = [record.getMessage() for record in caplog.records if record.name == "headrace.access"]
    assert [line.split(" ")[:3] for line in lines] == [["POST", INFER, "200"], ["POST", INFER, "400"]]
    assert "id=mine model=tiny items=1 tokens=3" in lines[0]


async def test_callers_are_told_apart_and_ranked_as_over_http() -> None:
    async with ready(settings=SETTINGS) as subject, listening(subject) as (_, channel):
        await infer(channel, metadata=(("x-request-priority", "-3"),))

    assert (subject.engine.submitted[0].caller, subject.engine.submitted[0].priority) == ("127.0.0.1", -3)


async def test_messages_have_the_limit_of_bodies_compressed_or_not() -> None:
    settings = replace(SETTINGS, http=replace(HTTP, max_body_bytes=2000))
    large = asked("w0 " * 1000)
    async with ready(settings=settings) as subject, listening(subject) as (_, channel):
        plain = await outcome(infer(channel, large))
        bomb = await outcome(infer(channel, large, compression=grpc.Compression.Gzip))
        small = await infer(channel, asked("w0 " * 10), compression=grpc.Compression.Gzip)

    assert len(gzip.compress(large.SerializeToString())) < 2000
    assert [plain[0], bomb[0]] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    assert list(small.outputs[0].shape) == [1, HIDDEN]
    assert len(subject.engine.submitted) == 1


async def test_health_is_readiness_and_those_who_watch_it_do_not_hold_up_a_stop() -> None:
    async with ready(settings=SETTINGS) as subject:
        rpc = Rpc(subject.app, HTTP, subject.settings.deadlines)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await rpc.start()}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            seen = [(await watch.read()).status]
            await rpc.ready()
            seen.append((await watch.read()).status)
            checked = await health.Check(health_pb2.HealthCheckRequest())
            await rpc.drain()
            seen.append((await watch.read()).status)
            await asyncio.wait_for(rpc.stop(600), 10)

    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]
    assert checked.status == SERVING


async def test_reflection_tells_the_service_and_its_messages() -> None:
    async with ready(settings=SETTINGS) as subject:
        rpc = Rpc(subject.app, HTTP, subject.settings.deadlines)
        port = await rpc.start()
        services, methods = await asyncio.to_thread(reflected, port)
        await rpc.stop(0)

    assert {SERVICE, "grpc.health.v1.Health"} <= services
    assert methods == METHODS.keys() - UNSUPPORTED.keys()


def reflected(port: int) -> tuple[set[str], set[str]]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        service = DescriptorPool(database).FindServiceByName(SERVICE)
        return set(database.get_services()), set(service.methods_by_name)


async def test_while_starting_calls_are_unavailable_with_advice() -> None:
    subject = gateway(settings=SETTINGS)
    async with listening(subject) as (_, channel):
        call = infer(channel)
        ended = await outcome(call)
        trailers = dict(await call.trailing_metadata())

    assert ended == (grpc.StatusCode.UNAVAILABLE, "starting")
    assert trailers["retry-after"] == "1"


async def test_a_stop_answers_what_was_taken_and_takes_no_more() -> None:
    drained = replace(SETTINGS, drain=DrainConfig(drain_delay_s=0.0))
    async with serving(settings=drained) as (address, run):
        engine = address.gateway.engine
        engine.device.gate.clear()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{address.grpc_port}") as channel:
            calls = [asyncio.ensure_future(infer(channel, asked(f"w{number}"))) for number in range(8)]
            await engine.until(lambda: len(engine.submitted) == 8)
            os.kill(os.getpid(), signal.SIGTERM)
            refused = await until_refused(channel)
            engine.device.gate.set()
            answers = await asyncio.gather(*calls)
        code = await run

    assert refused is grpc.StatusCode.UNAVAILABLE
    assert [list(answer.outputs[0].shape) for answer in answers] == [[1, HIDDEN]] * 8
    assert code == 0


async def test_in_the_moment_before_its_own_stop_a_call_is_refused_and_not_taken() -> None:
    subject = gateway(settings=SETTINGS)
    rpc = Rpc(subject.app, HTTP, subject.settings.deadlines)
    port = await rpc.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        before = await outcome(infer(channel))
        stopping = asyncio.ensure_future(rpc.stop(1.0))
        await asyncio.sleep(0)
        after = await outcome(infer(channel))
        await stopping

    assert before == (grpc.StatusCode.UNAVAILABLE, "starting")  # the application's answer: the call was taken
    assert after == (grpc.StatusCode.UNAVAILABLE, "draining")


async def until_refused(channel: grpc.aio.Channel) -> grpc.StatusCode:
    """The status of the first call that is not taken; the device is shut, so a taken one would not end."""
    while True:
        call = infer(channel, timeout=0.5)
        code = await call.code()
        if code is not grpc.StatusCode.DEADLINE_EXCEEDED:
            return code


async def test_what_cannot_be_finished_in_time_is_unavailable() -> None:
    hurried = replace(SETTINGS, drain=DrainConfig(drain_delay_s=0.0, drain_timeout_s=0.3))
    async with serving(settings=hurried) as (address, run):
        engine = address.gateway.engine
        engine.device.gate.clear()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{address.grpc_port}") as channel:
            call = infer(channel)
            await engine.until(lambda: len(engine.submitted) == 1)
            os.kill(os.getpid(), signal.SIGTERM)
            ended = await outcome(call)
        engine.device.gate.set()
        code = await run

    assert ended == (grpc.StatusCode.UNAVAILABLE, "shutting down")
    assert code == 1


async def test_a_port_that_is_taken_shows_at_once() -> None:
    async with ready(settings=SETTINGS) as subject:
        first = Rpc(subject.app, HTTP, subject.settings.deadlines)
        port = await first.start()
        second = Rpc(subject.app, replace(HTTP, grpc_port=port), subject.settings.deadlines)
        with pytest.raises(OSError, match="taken"):
            await second.start()
        await first.stop(0)


async def test_connections_are_made_anew_now_and_then_so_that_new_replicas_are_found() -> None:
    async with ready(settings=SETTINGS) as subject:
        rpc = Rpc(subject.app, HTTP, subject.settings.deadlines, connection_age_s=0.05)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await rpc.start()}") as channel:
            await channel.channel_ready()
            await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 10)
            answer = await infer(channel, wait_for_ready=True)
        await rpc.stop(0)

    assert list(answer.outputs[0].shape) == [1, HIDDEN]


def test_the_generated_files_are_what_the_text_says(tmp_path: Path) -> None:
    root = Path(pb.__file__).parents[1]
    text = "gateway/open_inference.proto"

    code = protoc.main(["", f"-I{root}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", text])

    assert code == 0
    for end in ("py", "pyi"):
        name = f"gateway/open_inference_pb2.{end}"
        assert (tmp_path / name).read_text() == (root / name).read_text()
