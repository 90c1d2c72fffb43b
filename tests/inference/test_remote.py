"""Both ends of the socket, in one process: a remote engine before the host of a real batcher."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from inference import CannotServe, Client, Embed, Host, Inputs, Limits, RemoteEngine, Terms, wire
from inference.errors import DeadlineExceeded, InvalidRequest, Overloaded, Unavailable, UnknownModel
from inference.request import Call, Request
from tests.gateway.fakes import MODEL, FakeEngine, vector

pytestmark = pytest.mark.anyio

NONSENSE = [b"\xff\xff\xff\xff", struct.pack("<I", 3) + b"abc", wire.framed(wire.Cancel(1))]


@dataclass(frozen=True)
class Socket:
    """A listener that outlives its engines, as the parent holds it."""

    path: Path
    listener: socket.socket
    hosts: list[tuple[Host, FakeEngine]] = field(default_factory=list)

    async def host(self, *, version: str = "1", loaded: bool = True) -> tuple[Host, FakeEngine]:
        """An engine that serves its models, once it has loaded them."""
        engine = FakeEngine()
        host = Host(engine, version)
        await host.listen(self.listener.dup())
        self.hosts.append((host, engine))
        if loaded:
            load(host, engine)
        return host, engine

    async def close(self) -> None:
        """End all of it."""
        for host, engine in self.hosts:
            engine.device.gate.set()
            await host.close()
            engine.close()
        self.listener.close()

    @asynccontextmanager
    async def remote(self, version: str = "1") -> AsyncIterator[RemoteEngine]:
        """An HTTP process's end, once it knows what is served."""
        remote = RemoteEngine(self.path, version)
        await remote.connect()
        await asyncio.to_thread(remote.load)
        yield remote
        await remote.disconnect()


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Socket]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "engine.sock"))
    listener.listen()
    door = Socket(tmp_path / "engine.sock", listener)
    yield door
    await door.close()


def load(host: Host, engine: FakeEngine) -> None:
    engine.load()
    engine.start()
    host.announce()


def call(*lists: Sequence[int], timeout_s: float = 20.0, model: str = MODEL) -> Call:
    requests = [Request(model, np.array(ids, np.int32)) for ids in lists or ([2, 5, 3],)]
    return Call(requests, asyncio.get_running_loop().time() + timeout_s, "somebody", 1)


async def test_a_client_cannot_tell_it_from_an_engine(door: Socket) -> None:
    _, engine = await door.host()
    async with door.remote() as remote:
        client = Client(remote, Limits())
        await client.start()
        models = client.models
        answer = await client.embed(Embed(Inputs(["w1", "w2 w3"]), Terms(5.0, caller="me", priority=2)))

    for row, ids in zip(answer.items, ([2, 5, 3], [2, 6, 7, 3]), strict=True):
        np.testing.assert_array_equal(row, vector(ids))
    assert replace(models[MODEL], tokenizer=engine.models[MODEL].tokenizer) == engine.models[MODEL]
    [submitted] = engine.submitted
    assert (submitted.caller, submitted.priority) == ("me", 2)
    assert answer.timings.device_s > 0


async def test_a_refusal_crosses_with_when_to_come_back(door: Socket) -> None:
    _, engine = await door.host()
    engine.error = Overloaded("queue full", 1.25)

    async with door.remote() as remote:
        with pytest.raises(Overloaded) as refused:
            await remote.submit(call())

    assert (refused.value.reason, refused.value.retry_after_s) == ("queue full", 1.25)


async def test_who_stops_waiting_is_forgotten_by_the_engine(door: Socket) -> None:
    _, engine = await door.host()
    engine.device.gate.clear()

    async with door.remote() as remote:
        waiting = asyncio.create_task(remote.submit(call()))
        await engine.until(lambda: len(engine.submitted) == 1)
        waiting.cancel()
        await engine.until(lambda: engine.cancelled == 1)
        engine.device.gate.set()
        after = await remote.submit(call())

    assert len(after) == 1


async def test_an_http_process_that_goes_takes_its_own_calls_and_no_others(door: Socket) -> None:
    host, engine = await door.host()
    engine.device.gate.clear()

    async with door.remote() as stays:
        async with door.remote() as goes:
            theirs = asyncio.create_task(goes.submit(call()))
            ours = asyncio.create_task(stays.submit(call([2, 6, 3])))
            await engine.until(lambda: len(engine.submitted) == 2)
        await engine.until(lambda: engine.cancelled == 1)
        engine.device.gate.set()
        answer = await ours
        with pytest.raises(Unavailable):
            await theirs
    await host.deserted()

    np.testing.assert_array_equal(answer[0].row, vector([2, 6, 3]))


async def test_an_engine_that_goes_fails_its_calls_at_once_and_the_next_one_is_found(door: Socket) -> None:
    host, engine = await door.host()
    engine.device.gate.clear()

    async with door.remote() as remote:
        waiting = asyncio.create_task(remote.submit(call()))
        await engine.until(lambda: len(engine.submitted) == 1)
        await host.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await remote.submit(call())
        meanwhile = remote.ready
        await door.host()
        await asyncio.to_thread(remote.load)
        after = await remote.submit(call())
    engine.device.gate.set()

    assert not meanwhile
    np.testing.assert_array_equal(after[0].row, vector([2, 5, 3]))


async def test_before_its_models_are_loaded_it_takes_connections_and_no_calls(door: Socket) -> None:
    host, engine = await door.host(loaded=False)
    remote = RemoteEngine(door.path, "1")
    await remote.connect()

    with pytest.raises(Unavailable):
        await remote.submit(call())
    load(host, engine)
    await asyncio.to_thread(remote.load)
    after = await remote.submit(call())
    await remote.disconnect()

    assert len(after) == 1


async def test_a_call_ends_at_its_deadline_whatever_the_engine_does(door: Socket) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.framed(wire.Catalogue(dict(served.models))))
        await reader.read()
        writer.close()

    served = FakeEngine()
    served.load()
    server = await asyncio.start_unix_server(mute, sock=door.listener.dup())
    async with door.remote() as remote:
        with pytest.raises(DeadlineExceeded):
            await remote.submit(call(timeout_s=0.05))
        await asyncio.wait_for(remote.drained(), 5)
    server.close()
    await server.wait_closed()


async def test_another_version_is_turned_away_and_says_so(door: Socket) -> None:
    await door.host(version="2")
    remote = RemoteEngine(door.path, "1")
    await remote.connect()

    with pytest.raises(CannotServe, match=r"version '1'.* '2'"):
        await asyncio.to_thread(remote.load)
    await asyncio.wait_for(remote.lost(), 5)
    await remote.disconnect()

    assert not remote.healthy
    assert not remote.ready


@pytest.mark.parametrize("nonsense", NONSENSE, ids=["too long", "no message", "no greeting"])
async def test_nonsense_ends_its_own_connection_and_no_other(door: Socket, nonsense: bytes) -> None:
    await door.host()
    async with door.remote() as remote:
        reader, writer = await asyncio.open_unix_connection(door.path)
        writer.write(nonsense)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await asyncio.wait_for(reader.readexactly(1), 5)
        after = await remote.submit(call())
        writer.close()

    assert len(after) == 1


async def test_half_a_frame_keeps_nobody_waiting(door: Socket) -> None:
    host, engine = await door.host()
    frame = wire.framed(wire.ask_of(1, call()))

    async with door.remote() as remote:
        reader, writer = await asyncio.open_unix_connection(door.path)
        writer.write(wire.framed(wire.Hello("1")) + frame[: len(frame) // 2])
        await reader.readexactly(1)  # it was greeted
        meanwhile = await remote.submit(call([2, 7, 3]))
        writer.close()
    await asyncio.wait_for(host.deserted(), 5)

    assert len(meanwhile) == 1
    assert [len(each.requests[0].tokens) for each in engine.submitted] == [3]


async def test_a_model_that_is_not_there_is_an_error_of_that_call(door: Socket) -> None:
    await door.host()

    async with door.remote() as remote:
        with pytest.raises(UnknownModel):
            await remote.submit(call(model="other"))
        after = await remote.submit(call())

    assert len(after) == 1


async def test_a_bug_in_the_engine_is_a_failure_of_that_call(door: Socket) -> None:
    _, engine = await door.host()
    engine.error = ValueError("secret")

    async with door.remote() as remote:
        with pytest.raises(Exception, match="a bug") as failed:
            await remote.submit(call())

    assert "secret" not in str(failed.value)


async def test_the_engine_tells_how_it_is_doing(door: Socket) -> None:
    _, engine = await door.host()
    engine.device.gate.clear()

    async with door.remote() as remote:
        at_first = remote.statistics()
        waiting = asyncio.create_task(remote.submit(call()))
        while (told := remote.statistics()) is None or told.in_flight == 0:
            await asyncio.sleep(0.01)  # until it is told, a moment after something has changed
        engine.device.gate.set()
        await waiting

    assert at_first is not None
    assert at_first.in_flight == 0
    assert told.in_flight == 1


async def test_a_call_that_is_abandoned_is_told_so(door: Socket) -> None:
    _, engine = await door.host()
    engine.device.gate.clear()

    async with door.remote() as remote:
        waiting = asyncio.create_task(remote.submit(call()))
        await engine.until(lambda: len(engine.submitted) == 1)
        abandoned = remote.abandon()
        with pytest.raises(Unavailable, match="shutting down"):
            await waiting
        await asyncio.wait_for(remote.drained(), 5)
    engine.device.gate.set()

    assert abandoned == 1


async def test_what_the_dialects_refuse_never_crosses(door: Socket) -> None:
    _, engine = await door.host()
    async with door.remote() as remote:
        client = Client(remote, Limits())
        await client.start()
        with pytest.raises(InvalidRequest):
            await client.embed(Embed(Inputs(["w1 " * 40]), Terms(5.0)))

    assert engine.submitted == []
