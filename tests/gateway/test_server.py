import asyncio
import gc
import os
import signal
import socket

import pytest

from gateway import server
from gateway.config import DrainConfig, Settings
from inference import CannotServe, DeviceLost
from tests.gateway.fakes import gateway, listening, post, serving

pytestmark = pytest.mark.anyio

BODY = b'{"input": "w0"}'


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # as `headrace serve` does


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


async def test_what_is_loaded_is_not_searched_for_garbage_again() -> None:
    gc.unfreeze()
    loaded = len(gc.get_objects())
    async with listening() as address:
        await address.answer(post(BODY, close=True))
        searched = len(gc.get_objects())
    gc.unfreeze()

    assert searched < loaded / 2


async def test_a_signal_drains_and_ends_with_code_0() -> None:
    async with serving(settings=Settings(drain=DrainConfig(drain_delay_s=0.0))) as (address, run):
        engine = address.gateway.engine
        engine.device.gate.clear()
        idle, busy = await address.connect(), await address.connect()
        idle.send(post(BODY[:-1] + b', "dimensions": 0}'))
        await idle.response()
        busy.send(post(BODY))
        await asyncio.to_thread(engine.device.entered.wait)
        os.kill(os.getpid(), signal.SIGTERM)
        closed = await idle.rest()
        idle.close()
        engine.device.gate.set()
        status, _ = await busy.response()
        busy.close()
        code = await run

    assert closed == b""
    assert status == 200
    assert code == 0
    assert address.gateway.lifecycle.state == "stopped"


async def test_calls_that_are_not_done_in_time_are_told_so_and_counted_in_the_exit_code() -> None:
    async with serving(settings=Settings(drain=DrainConfig(drain_delay_s=0.0, drain_timeout_s=0.05))) as (address, run):
        engine = address.gateway.engine
        engine.device.gate.clear()
        connection = await address.connect()
        connection.send(post(BODY))
        await asyncio.to_thread(engine.device.entered.wait)
        os.kill(os.getpid(), signal.SIGTERM)
        status, _ = await connection.response()
        connection.close()
        engine.device.gate.set()
        code = await run

    assert status == 503
    assert code == 1


async def test_an_interrupt_drains_without_delay() -> None:
    async with serving(settings=Settings(drain=DrainConfig(drain_delay_s=600.0))) as (_, run):
        os.kill(os.getpid(), signal.SIGINT)
        code = await run

    assert code == 0


async def test_calls_within_the_drain_delay_are_answered() -> None:
    async with serving(settings=Settings(drain=DrainConfig(drain_delay_s=0.5))) as (address, run):
        os.kill(os.getpid(), signal.SIGTERM)
        while address.gateway.lifecycle.state == "ready":
            probe = await address.answer(b"GET /readyz HTTP/1.1\r\nConnection: close\r\n\r\n")
        probe = await address.answer(b"GET /readyz HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = await address.answer(post(BODY))
        code = await run

    assert statuses(probe) == [503]
    assert statuses(answer) == [200]
    assert b"connection: close" in answer
    assert code == 0


async def test_a_model_that_cannot_be_served_ends_it() -> None:
    subject = gateway()
    subject.engine.cannot_serve = CannotServe("no such folder")
    listener = server.bind("127.0.0.1", 0)
    settings = subject.settings

    with pytest.raises(CannotServe, match="no such folder"):
        await server.run(subject.app, listener, settings.http, settings.drain, subject.lifecycle, tls=None)


def test_a_port_that_is_taken_shows_at_once_although_nobody_has_accepted_yet() -> None:
    with server.bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]

        with pytest.raises(OSError, match="in use"):
            server.bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no..host", "x" * 70, "203.0.113.1"])
def test_an_address_that_is_not_here_is_an_os_error_with_words(host: str) -> None:
    with pytest.raises(OSError, match=r"\S") as caught:
        server.bind(host, 0)

    assert caught.value.strerror


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_address_may_be_of_version_6() -> None:
    with server.bind("::1", 0) as listener:
        assert listener.family == socket.AF_INET6


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"), ("x.org", "http://x.org:80")]
)
def test_an_address_is_written_as_people_click_it(host: str, url: str) -> None:
    assert server.url(host, 80) == url


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_lost_device_ends_the_process_with_another_code() -> None:
    async with serving(settings=Settings(drain=DrainConfig(drain_delay_s=0.0))) as (address, run):
        address.gateway.engine.device.fail = DeviceLost("gone")

        told = statuses(await address.answer(post(BODY, close=True)))
        code = await run

    assert told == [503]
    assert code == 1
