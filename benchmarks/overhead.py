"""
What a call costs beside its model: CPU microseconds by route, over a socket, in process, and of its dialect.

In process is a whole call, from its scope to the last send; beside it stands a route that does nothing. A dialect's
part is what the application adds to the same call of its client: routing, parsing, checks, metrics, the access log, and
an answer of 384 numbers. Everything is real but the runtime, which costs no CPU (`instant.py`). Over a socket it is the
CPU of the server's whole process, with keep-alive connections and callers on another core.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import cycle
from statistics import median
from typing import Final

import orjson
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Scope

from benchmarks import callers, machine
from benchmarks.callers import WrongAnswer
from benchmarks.instant import STATES, State, instant
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import Process, free_ports, running
from gateway import logs
from gateway.config import LogConfig
from inference import Client, Embed, Inputs, Overloaded, Terms

_CALLERS: Final = 32
_BODIES: Final = 256
_SLICES: Final = 8  # of a measurement: a call and its client's part in turns, since the machine's speed changes
_TURN: Final = 64  # calls of one task between two looks at the clock
_IN_PROCESS: Final = "in process"
_SOCKET: Final = "over a socket"
_CLIENT: Final = "the client alone"
_DIALECT: Final = "the dialect's part"
_WAYS: Final = (_SOCKET, _IN_PROCESS, _CLIENT, _DIALECT)
_TERMS: Final = Terms(30.0)
_GOAL_US: Final = 120.0
_UNIT: Final = "CPU us a call"
_TEXT: Final = "What is the capital of France?"


@dataclass(frozen=True, slots=True)
class Row:
    """One hot route with its bodies, and the status they are answered with."""

    name: str
    method: str
    path: str
    bodies: Sequence[bytes]  # taken in turn: equal ones would be computed together
    texts: Sequence[Sequence[str]] = ()  # what they ask about
    status: int = 200
    state: State = "idle"  # of the gateway that is asked


def _embeddings(name: str, texts: int = 1, **fields: object) -> Row:
    """A row of `/v1/embeddings` with so many texts a call; one of them alone is no list."""
    lists = [[f"{_TEXT} {_BODIES * number + text}" for text in range(texts)] for number in range(_BODIES)]
    bodies = [orjson.dumps({"input": items if texts > 1 else items[0], **fields}) for items in lists]
    return Row(name, "POST", "/v1/embeddings", bodies, lists)


def _texts(path: str, field: str, *, several: bool = False) -> Row:
    """A row of another dialect's route with one short text a call, in a list where it must be one; floats."""
    texts = [f"{_TEXT} {number}" for number in range(_BODIES)]
    bodies = [orjson.dumps({field: [text] if several else text}) for text in texts]
    return Row(f"{path}, float", "POST", path, bodies, [[text] for text in texts])


ROWS: Final[Sequence[Row]] = (
    _embeddings("embeddings, float", encoding_format="float"),
    _embeddings("embeddings, base64", encoding_format="base64"),
    _embeddings("embeddings, float, a list of 16", 16, encoding_format="float"),
    replace(_embeddings("embeddings, refused"), status=429, state="full"),
    Row("models", "GET", "/v1/models", [b""]),
    _texts("/embed", "inputs"),
    _texts("/models/all-MiniLM-L6-v2", "inputs"),
    _texts("/infinity/embeddings", "input"),
    _texts("/v2/embed", "texts", several=True),
)

_CONTROL: Final = Row("a Starlette route that does nothing", "GET", "/", [b""])


def run(rounds: int, seconds: float) -> Findings:
    """Measure every row in every round, both ways."""
    core, callers_core = machine.two_cores()
    os.sched_setaffinity(0, {callers_core})
    found: dict[tuple[str, str], list[float]] = {(row.name, way): [] for way in _WAYS for row in ROWS}
    found[_CONTROL.name, _IN_PROCESS] = []
    for number in range(rounds):
        sys.stderr.write(f"round {number + 1} of {rounds}\n")
        for state in STATES:
            rows = [row for row in ROWS if row.state == state]
            with _served(core, state) as process:
                for row in rows:
                    found[row.name, _SOCKET].append(asyncio.run(_over_a_socket(process, row, seconds)))
            for (name, way), spent in uvloop.run(_in_process(state, rows, seconds)).items():
                found[name, way].append(spent)
        found[_CONTROL.name, _IN_PROCESS].append(uvloop.run(_control(seconds)))
    figures = [Figure(f"{name}, {way}", _UNIT, tuple(values)) for (name, way), values in found.items()]
    return Findings("overhead", "cpu", figures, _goals(found), _conditions(rounds, seconds))


@contextmanager
def _served(core: int, state: State) -> Iterator[Process]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.instant", str(port), state]
    with running(core, command, environment=os.environ, port=port, ready="/readyz") as process:
        yield process


async def _over_a_socket(process: Process, row: Row, seconds: float) -> float:
    """CPU microseconds of the server's process a call."""
    calls = [callers.http_call(row.method, row.path, body, process.port) for body in row.bodies]
    await callers.again_and_again(process.port, calls, _CALLERS, 0.3, status=row.status)
    before_s = process.cpu_s()
    answers = await callers.again_and_again(process.port, calls, _CALLERS, seconds, status=row.status)
    return 1e6 * (process.cpu_s() - before_s) / answers


async def _in_process(state: State, rows: Sequence[Row], seconds: float) -> dict[tuple[str, str], float]:
    """CPU microseconds of this process a call, by row and way: no server, no socket; the access log goes nowhere."""
    made = instant(state)
    sink = open(os.devnull, "w")  # noqa: ASYNC230, SIM115
    logging.getLogger().handlers.clear()
    logs.start(LogConfig(), sink)
    await made.lifecycle.start()
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        bodies, texts = cycle(row.bodies), cycle(row.texts or [()])
        ways = {
            _IN_PROCESS: lambda row=row, bodies=bodies: ask(made.app, row, next(bodies)),
            _CLIENT: lambda row=row, texts=texts: _embed(made.client, next(texts)),
        }
        for work in ways.values():
            await _calls(work, 0.3)
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(_SLICES):
            for way, work in ways.items():
                spent[way].append(await _calls(work, seconds / _SLICES))
        found |= {(row.name, way): median(told) for way, told in spent.items()}
        found[row.name, _DIALECT] = found[row.name, _IN_PROCESS] - found[row.name, _CLIENT]
    made.lifecycle.abandon()
    await made.lifecycle.stop()
    logging.getLogger().handlers.clear()
    sink.close()
    return found


async def _control(seconds: float) -> float:
    """CPU microseconds of an empty answer: what the machine and this way of asking cost at that moment."""

    async def nothing(request: Request) -> Response:
        return Response()

    app = Starlette(routes=[Route(_CONTROL.path, nothing)])
    return await _calls(lambda: ask(app, _CONTROL, b""), seconds)


async def _calls(call: Callable[[], Awaitable[None]], seconds: float) -> float:
    until, calls = time.perf_counter() + seconds, 0
    started_s = time.process_time()

    async def work() -> None:
        nonlocal calls
        while time.perf_counter() < until:
            for _ in range(_TURN):
                await call()
            calls += _TURN

    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLERS):
            group.create_task(work())
    return 1e6 * (time.process_time() - started_s) / calls


async def _embed(client: Client, texts: Sequence[str]) -> None:
    """The same call without its dialect; a row that asks about no text asks the client for nothing."""
    if texts:
        with suppress(Overloaded):
            await client.embed(Embed(Inputs(list(texts)), _TERMS))


async def ask(app: ASGIApp, row: Row, content: bytes) -> None:
    """One exchange as a server would offer it; raises WrongAnswer."""
    body: Message | None = {"type": "http.request", "body": content, "more_body": False}
    status = 0

    async def receive() -> Message:
        nonlocal body
        if body is None:
            await asyncio.get_running_loop().create_future()  # the caller stays
        given, body = body, None
        return given or {}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(_scope(row, len(content)), receive, send)
    if status != row.status:
        raise WrongAnswer(f"{row.name}: status {status}")


def _scope(row: Row, size: int) -> Scope:
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": row.method,
        "path": row.path,
        "raw_path": row.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [*headers, (b"content-length", str(size).encode())],
        "state": {},
    }


def _goals(found: dict[tuple[str, str], list[float]]) -> list[Goal]:
    """Of one short text: what its dialect adds to the client's own work, and all of it."""
    hot = [row.name for row in ROWS if row.method == "POST" and len(row.texts[0]) == 1]
    ways = (_DIALECT, _IN_PROCESS)
    return [Goal(f"{row}, {way}", median(found[row, way]), _GOAL_US, at_most=True) for row in hot for way in ways]


def _conditions(rounds: int, seconds: float) -> dict[str, object]:
    return {
        "model": "none: vectors of 384 numbers made beforehand, the tokenizer of all-MiniLM-L6-v2",
        "text": _TEXT,
        "callers": f"{_CALLERS}, each with a connection of its own and its next call as soon as it has its answer",
        "rounds": rounds,
        "seconds a measurement": seconds,
    }
