"""
A quarter of an hour of mixed calls at 80 % of capacity: memory, open files, threads and tasks must not grow.

Every minute is a round; growth is the slope of a line through them, over the whole run. Ten more go before: the heap
keeps as much as it ever took, and the rarest batches come as late as that. Capacity is found first, as the rate of
single texts in a closed loop of a minute; the mixture has cheaper calls too.

    python -m benchmarks soak --rounds 15 --seconds 60
"""

import asyncio
import itertools
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import orjson
import psutil

from benchmarks import machine, texts
from benchmarks.callers import ClosedLoop, WrongAnswer, connect, http_call
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import Server, serving

_SHARE: Final = 0.8
_CALIBRATE_S: Final = 60.0
_CALLERS: Final = 64
_SETTLE: Final = 10  # rounds before those that are judged: caches and heaps fill
_MOST_MEMORY: Final = 0.02  # growth over the run, of what there was
_MOST_FILES: Final = 2.0
_MOST_THREADS: Final = 0.5
_MOST_TASKS: Final = 5.0
_PATIENCE_S: Final = 30.0
_SHORT: Final = 200  # characters: V2 refuses what is too long for the model


@dataclass(frozen=True, slots=True)
class _Round:
    """What was seen at the end of one round, when its calls had ended."""

    memory_mib: float
    files: float
    threads: float
    tasks: float
    answered: int = 0
    failed: int = 0


def run(rounds: int, seconds: float) -> Findings:
    """Offer the mixture, round after round, two at the least; the server is the same all the time."""
    core, callers_core = machine.two_cores()
    os.sched_setaffinity(0, {callers_core})
    with serving(core, "--no-access-log") as server:
        passages = texts.passages(512)
        window = asyncio.run(ClosedLoop(server.port, passages, _CALLERS, server.cpu_s).run(_CALIBRATE_S))
        rate = _SHARE * window.answers / window.wall_s
        seen = [_look(server)]
        for number in range(_SETTLE + max(2, rounds)):
            seen.append(asyncio.run(_offer(server, passages, rate, seconds, seed=number)))
            sys.stderr.write(f"round {number + 1} of {_SETTLE + rounds} at {rate:.1f}/s: {seen[-1]}\n")
    return _findings(seen[0], seen[1:], rate, seconds)


def _findings(start: _Round, seen: Sequence[_Round], rate: float, seconds: float) -> Findings:
    memory, files = tuple(each.memory_mib for each in seen), tuple(each.files for each in seen)
    threads, tasks = tuple(each.threads for each in seen), tuple(each.tasks for each in seen)
    failed = tuple(float(each.failed) for each in seen)
    figures = [
        Figure("resident memory", "MiB", memory),
        Figure("open files", "count", files),
        Figure("threads", "count", threads),
        Figure("tasks of the event loop", "count", tasks),
        Figure("calls answered", "count", tuple(float(each.answered) for each in seen)),
        Figure("calls that failed", "count", failed),
    ]
    goals = [
        Goal("memory's growth, as a share", _growth(memory) / memory[_SETTLE], _MOST_MEMORY, at_most=True),
        Goal("open files' growth", _growth(files), _MOST_FILES, at_most=True),
        Goal("threads' growth", _growth(threads), _MOST_THREADS, at_most=True),
        Goal("tasks' growth", _growth(tasks), _MOST_TASKS, at_most=True),
        Goal("calls that failed", sum(failed), 0.0, at_most=True),
    ]
    minutes = max(1, len(_settled(seen)) - 1) * seconds / 60
    slopes = {"memory, MiB": memory, "open files": files, "threads": threads, "tasks": tasks}
    conditions = {
        "rounds": len(_settled(seen)),
        "rounds before": _SETTLE,
        "seconds a round": seconds,
        "calls a second": rate,
        "share of capacity": _SHARE,
        "at the start": asdict(start),
        "at the end": asdict(seen[-1]),
        "growth a minute, once settled": {name: _growth(values) / minutes for name, values in slopes.items()},
    }
    return Findings("soak", "cpu", figures, goals, conditions)


def _growth(values: Sequence[float]) -> float:
    """Return the rise of a line through the settled rounds, from the first of them to the last."""
    settled = _settled(values)
    return float(np.polyfit(range(len(settled)), settled, 1)[0]) * (len(settled) - 1)


def _settled(values: Sequence[Any]) -> Sequence[Any]:
    return values[_SETTLE:]


async def _offer(server: Server, passages: Sequence[str], rate: float, seconds: float, *, seed: int) -> _Round:
    """Send calls at random moments, whatever becomes of the earlier ones, each on a connection of its own."""
    chance = random.Random(seed)
    calls = itertools.cycle(_mixture(passages, server.port, chance))
    outcomes: list[bool] = []

    async def one(call: bytes, status: int) -> None:
        outcomes.append(await _asked(server.port, call, status))

    async with asyncio.TaskGroup() as group:
        moment = time.perf_counter()
        until = moment + seconds
        while (moment := moment + chance.expovariate(rate)) < until:
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            group.create_task(one(*next(calls)))
    return replace(_look(server), answered=sum(outcomes), failed=len(outcomes) - sum(outcomes))


def _look(server: Server) -> _Round:
    process = psutil.Process(server.pid)
    size, files, threads = process.memory_info().rss, process.num_fds(), process.num_threads()
    return _Round(size / 2**20, files, threads, server.tasks())


def _mixture(passages: Sequence[str], port: int, chance: random.Random) -> list[tuple[bytes, int]]:
    """Make calls of many kinds with the status that each is to have: single texts, lists, other dialects, mistakes."""
    made = []
    for text in passages:
        body, lines = _json(input=text, truncate=True), ["connection: close"] if chance.random() < 0.2 else []
        made.append((http_call("POST", "/v1/embeddings", body, port, lines), 200))
    for text in [passage[:_SHORT] for passage in passages[:64]]:
        infer = _json(inputs=[{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}])
        made += [
            (http_call("POST", "/embed", _json(inputs=[text], truncate=True), port), 200),
            (http_call("POST", "/v2/models/all-MiniLM-L6-v2/infer", infer, port), 200),
            (http_call("POST", "/tokenize", _json(inputs=text), port), 200),
            (http_call("POST", "/v1/embeddings", _json(input=[]), port), 400),
            (http_call("POST", "/v1/embeddings", b"{", port), 400),
            (http_call("GET", "/nowhere", b"", port), 404),
            (http_call("GET", "/v1/models", b"", port), 200),
        ]
    chance.shuffle(made)
    return made


def _json(**body: object) -> bytes:
    return orjson.dumps(body)


async def _asked(port: int, call: bytes, status: int) -> bool:
    """Whether a call had the answer that it is to have, in time."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            connection = await connect(port)
            await connection.ask(call, status)
            await connection.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, WrongAnswer):
        return False
    return True
