"""
Callers of a server in a closed loop: each sends its next text as soon as it has its answer.

Bare sockets and requests made beforehand, so that the callers' core is never what is measured.
"""

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import orjson

CUT: Final[Mapping[str, object]] = {"truncate": True}
"""Asks Headrace to cut a text to what the model reads; most peers do so unasked, and read past the field."""

_TIMING: Final = re.compile(rb"(\w+);dur=([\d.]+)")  # of a Server-Timing header


class WrongAnswer(Exception):
    """An answer that is not a vector; no figure comes from such a run."""


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen between two moments of a closed loop, whole passes over the texts apart."""

    answers: int
    wall_s: float
    server_cpu_s: float
    callers_cpu_s: float
    latencies_s: tuple[float, ...]

    def latency_s(self, percentile: float) -> float:
        """Return a percentile of the latencies."""
        return float(np.percentile(self.latencies_s, percentile))


def call_of(text: str, port: int, headers: Sequence[str] = (), **fields: object) -> bytes:
    """Write the HTTP request that embeds one text; `fields` are added to the body."""
    body = orjson.dumps({"input": text, "encoding_format": "float", **fields})
    return http_call("POST", "/v1/embeddings", body, port, headers)


def http_call(method: str, path: str, body: bytes, port: int, headers: Sequence[str] = ()) -> bytes:
    """Write an HTTP request with a JSON body, or none."""
    lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{port}"]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


class Connection:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the two ends; `connect` opens them."""
        self._reader = reader
        self._writer = writer
        self.head = b""  # of the last answer, in lower case

    async def ask(self, call: bytes, status: int = 200) -> bytes:
        """Send a call and return the body of its answer; raises WrongAnswer for another status."""
        self._writer.write(call)
        head = self.head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        body = await self._reader.readexactly(int(length))
        if not head.startswith(b"http/1.1 %d" % status):
            raise WrongAnswer(f"{head.splitlines()[0]!r}: {body[:200]!r}")
        return body

    async def close(self) -> None:
        """Close it."""
        self._writer.close()
        await self._writer.wait_closed()


async def connect(port: int) -> Connection:
    """Open a connection to a server on this machine."""
    return Connection(*await asyncio.open_connection("127.0.0.1", port))


def vector_of(body: bytes) -> npt.NDArray[np.float32]:
    """Return the one vector of an answer; raises WrongAnswer."""
    vector = np.asarray(orjson.loads(body)["data"][0]["embedding"], np.float32)
    if vector.ndim != 1 or not vector.any():
        raise WrongAnswer(f"no vector: {body[:200]!r}")
    return vector


async def vectors(
    port: int, texts: Sequence[str], callers: int, fields: Mapping[str, object] = CUT
) -> npt.NDArray[np.float32]:
    """Ask for all texts, by so many callers at once; returns one row a text."""
    rows: dict[int, npt.NDArray[np.float32]] = {}
    jobs = iter(enumerate(texts))

    async def work() -> None:
        connection = await connect(port)
        for index, text in jobs:
            rows[index] = vector_of(await connection.ask(call_of(text, port, (), **fields)))
        await connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(work())
    return np.stack([rows[index] for index in range(len(texts))])


async def latencies(port: int, texts: Sequence[str]) -> list[dict[str, float]]:
    """Ask for one text after another on one connection; returns the milliseconds of each, by what took them."""
    connection = await connect(port)
    took = []
    for call in [call_of(text, port, (), **CUT) for text in texts]:
        started = time.perf_counter()
        body = await connection.ask(call)
        all_ms = 1000 * (time.perf_counter() - started)
        vector_of(body)
        told = {name.decode(): float(spent) for name, spent in _TIMING.findall(connection.head)}
        took.append({"all": all_ms, **told, "the rest": all_ms - sum(told.values())})
    await connection.close()
    return took


async def again_and_again(port: int, calls: Sequence[bytes], callers: int, seconds: float, *, status: int) -> int:
    """Send the calls in turn over so many connections, each as soon as it has its answer; returns how many answers."""
    until, answers, source = time.perf_counter() + seconds, 0, itertools.cycle(calls)

    async def work() -> None:
        nonlocal answers
        connection = await connect(port)
        while time.perf_counter() < until:
            await connection.ask(next(source), status)
            answers += 1
        await connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(work())
    return answers


class ClosedLoop:
    """So many callers that go through the texts again and again."""

    def __init__(
        self,
        port: int,
        texts: Sequence[str],
        callers: int,
        server_cpu_s: Callable[[], float],
        fields: Mapping[str, object] = CUT,
    ) -> None:
        """Take what to ask, how many ask at once, and the meter of the server's CPU."""
        self._port = port
        self._calls = [call_of(text, port, (), **fields) for text in texts]
        self._callers = callers
        self._server_cpu_s = server_cpu_s
        self._latencies: list[float] = []
        self._target: int | None = None  # answers at which somebody wants to look
        self._reached = asyncio.Event()
        self._over = False

    async def run(self, seconds: float) -> Window:
        """Warm up, then watch whole passes over the texts, for at least so many seconds."""
        source = itertools.cycle(self._calls)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._callers):
                group.create_task(self._call(source))
            await self._reach(2 * self._callers)
            first, started, server_s, own_s = len(self._latencies), *self._meters()
            passes = 0
            while passes == 0 or time.perf_counter() - started < seconds:
                passes += 1
                await self._reach(first + passes * len(self._calls))
            last, ended, server_end_s, own_end_s = len(self._latencies), *self._meters()
            self._over = True
        return Window(
            last - first,
            ended - started,
            server_end_s - server_s,
            own_end_s - own_s,
            tuple(self._latencies[first:last]),
        )

    async def _reach(self, answers: int) -> None:
        self._target = answers
        self._reached.clear()
        await self._reached.wait()

    def _meters(self) -> tuple[float, float, float]:
        return time.perf_counter(), self._server_cpu_s(), time.process_time()

    async def _call(self, source: "itertools.cycle[bytes]") -> None:
        connection = await connect(self._port)
        while not self._over:
            started = time.perf_counter()
            body = await connection.ask(next(source))
            self._latencies.append(time.perf_counter() - started)
            vector_of(body)
            if self._target == len(self._latencies):
                self._reached.set()
        await connection.close()
