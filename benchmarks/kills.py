"""
`kill -9` of each process of `--http-workers 2` under load: what callers saw, and how long until it was whole again.

The runtime costs no CPU (`instant.py`), and the engine loads nothing but a tokenizer: with a real model its start takes
longer, by what `headrace_model_load_seconds` and `headrace_model_warm_up_seconds` say.
"""

import asyncio
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import orjson
import psutil

from benchmarks import callers, machine
from benchmarks.callers import WrongAnswer
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import Process, free_ports, running

_WORKERS: Final = 2
_CALLERS: Final = 32
_VICTIMS: Final = ("an HTTP process", "the engine")
_BACK_WITHIN_S: Final = 60.0
_PAUSE_S: Final = 0.01  # of a caller after a failure
_WATCH_S: Final = 0.005


@dataclass(slots=True)
class Seen:
    """What callers saw from the kill on."""

    outcomes: Counter[str] = field(default_factory=Counter)
    last_failure: float = 0.0  # moment
    over: bool = False

    def note(self, outcome: str) -> None:
        """Count one call."""
        self.outcomes[outcome] += 1
        if outcome != "answered":
            self.last_failure = time.perf_counter()


def run(rounds: int, seconds: float) -> Findings:
    """Kill each process once a round, under load."""
    core, callers_core = machine.two_cores()
    os.sched_setaffinity(0, {callers_core})
    figures: dict[tuple[str, str, str], list[float]] = {}
    for number in range(rounds):
        sys.stderr.write(f"round {number + 1} of {rounds}\n")
        for victim in _VICTIMS:
            (port,) = free_ports(1)
            command = [sys.executable, "-m", "benchmarks.several", str(port), str(_WORKERS)]
            with running(core, command, environment=os.environ, port=port, ready="/readyz") as process:
                for what, unit, value in asyncio.run(_kill(process, victim, seconds)):
                    figures.setdefault((victim, what, unit), []).append(value)
    rows = [Figure(f"{victim} killed: {what}", unit, tuple(found)) for (victim, what, unit), found in figures.items()]
    return Findings("kills", "cpu", rows, _goals(figures), _conditions(rounds, seconds))


async def _kill(process: Process, victim: str, seconds: float) -> list[tuple[str, str, float]]:
    seen = Seen()
    async with asyncio.TaskGroup() as group:
        for number in range(_CALLERS):
            group.create_task(_call(process.port, number, seen))
        await asyncio.sleep(seconds)
        [killed, *_] = process.children_by_role()["engine" if victim == "the engine" else "HTTP"]
        seen.outcomes.clear()
        started = time.perf_counter()
        killed.kill()
        await _whole_again(process, killed)
        whole_s = time.perf_counter() - started
        await asyncio.sleep(seconds)
        seen.over = True
    heal_s = max(0.0, seen.last_failure - started)
    return [
        ("answered", "calls", float(seen.outcomes["answered"])),
        ("connection closed", "calls", float(seen.outcomes["closed"])),
        ("503", "calls", float(seen.outcomes["503"])),
        ("anything else", "calls", float(seen.outcomes["else"])),
        ("last call that failed", "seconds after", heal_s),
        ("a successor is there, /readyz 200", "seconds after", whole_s),
    ]


async def _whole_again(process: Process, killed: psutil.Process) -> None:
    """Wait until the killed one's successor serves."""
    until = time.perf_counter() + _BACK_WITHIN_S
    while time.perf_counter() < until:
        there = {role: [each.pid for each in found] for role, found in process.children_by_role().items()}
        complete = len(there["HTTP"]) == _WORKERS and len(there["engine"]) == 1
        if complete and killed.pid not in there["HTTP"] + there["engine"] and await _is_ready(process.port):
            return
        await asyncio.sleep(_WATCH_S)
    raise TimeoutError("the killed process has no successor")


async def _is_ready(port: int) -> bool:
    try:
        connection = await callers.connect(port)
        await connection.ask(callers.http_call("GET", "/readyz", b"", port))
        await connection.close()
    except (WrongAnswer, OSError, EOFError):
        return False
    return True


async def _call(port: int, number: int, seen: Seen) -> None:
    """Call again and again, on a new connection after each failure."""
    body = orjson.dumps({"input": f"What is the capital of France? {number}"})
    call, connection = callers.http_call("POST", "/v1/embeddings", body, port), await callers.connect(port)
    while not seen.over:
        try:
            await connection.ask(call)
            seen.note("answered")
        except WrongAnswer as error:
            seen.note("503" if "503" in str(error) else "else")
            await asyncio.sleep(_PAUSE_S)
        except (OSError, EOFError):
            seen.note("closed")
            connection = await callers.connect(port)
    await connection.close()


def _goals(figures: dict[tuple[str, str, str], list[float]]) -> list[Goal]:
    http, engine = _VICTIMS
    others = [value for (_, what, _), found in figures.items() if what == "anything else" for value in found]
    return [
        Goal(
            "connections closed by the end of one HTTP process",
            max(figures[http, "connection closed", "calls"]),
            _CALLERS,
            at_most=True,
        ),
        Goal("503 because of an HTTP process", max(figures[http, "503", "calls"]), 0, at_most=True),
        Goal(
            "connections closed because of the engine",
            max(figures[engine, "connection closed", "calls"]),
            0,
            at_most=True,
        ),
        Goal("other failures", max(others), 0, at_most=True),
    ]


def _conditions(rounds: int, seconds: float) -> dict[str, object]:
    return {
        "model": "none: vectors of 384 numbers made beforehand, the tokenizer of all-MiniLM-L6-v2",
        "callers": f"{_CALLERS} connections, each its next call as soon as it has its answer, 10 ms after a failure",
        "HTTP processes": _WORKERS,
        "cores of all server processes": 1,
        "rounds": rounds,
        "seconds of load before, and after it is whole": seconds,
    }
