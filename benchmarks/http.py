"""
HTTP in processes of its own: CPU microseconds a call by process, and calls a second, for `--http-workers` 0, 1, 2, 4.

Everything is real but the runtime, which costs no CPU (`instant.py`). The servers have half of the cores, their callers
the other half, a process a core; with 16 cores or more, 8 HTTP processes are measured too.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import Final

import orjson

from benchmarks import callers, machine
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import Process, free_ports, running

_CALLERS: Final = 64
_BODIES: Final = 256
_TEXT: Final = "What is the capital of France?"
_ROLES: Final = ("parent", "engine", "HTTP")
_MANY_CORES: Final = 16


@dataclass(frozen=True, slots=True)
class Window:
    """What one measurement saw: CPU microseconds a call by process, calls a second, and how even the load was."""

    us: dict[str, float]
    calls_per_s: float
    busiest: float  # HTTP process's part of the CPU of all of them


def run(rounds: int, seconds: float) -> Findings:
    """Measure every number of processes in every round."""
    cores = sorted(os.sched_getaffinity(0))
    machine.two_cores()
    half = len(cores) // 2
    servers, theirs = set(cores[:half]), set(cores[half:])
    counts = (0, 1, 2, 4, 8) if len(cores) >= _MANY_CORES else (0, 1, 2, 4)
    found: dict[int, list[Window]] = {count: [] for count in counts}
    with _crew(theirs) as crew:
        for number in range(rounds):
            sys.stderr.write(f"round {number + 1} of {rounds}\n")
            for count in counts:
                with _served(servers, count) as process:
                    found[count].append(_watch(process, crew, len(theirs), seconds))
    figures = [figure for count, windows in found.items() for figure in _figures(count, windows)]
    return Findings("http", "cpu", figures, _goals(found), _conditions(rounds, seconds, len(servers), len(theirs)))


@contextmanager
def _crew(cores: set[int]) -> Iterator[ProcessPoolExecutor]:
    """Processes that call, one a core of theirs."""
    with ProcessPoolExecutor(len(cores), get_context("spawn"), os.sched_setaffinity, (0, cores)) as crew:
        list(crew.map(abs, range(len(cores))))  # so that all of them have started
        yield crew


@contextmanager
def _served(cores: set[int], count: int) -> Iterator[Process]:
    (port,) = free_ports(1)
    served = ["benchmarks.several", str(port), str(count)] if count else ["benchmarks.instant", str(port), "idle"]
    command = [sys.executable, "-m", *served]
    with running(cores, command, environment=os.environ, port=port, ready="/readyz") as process:
        yield process


def _watch(process: Process, crew: ProcessPoolExecutor, crews: int, seconds: float) -> Window:
    _call(process.port, crew, crews, 0.5)
    before = process.cpu_by_role_s()
    answers = _call(process.port, crew, crews, seconds)
    after = process.cpu_by_role_s()
    spent = {role: [end - start for start, end in zip(before[role], after[role], strict=True)] for role in _ROLES}
    us = {role: 1e6 * sum(each) / answers for role, each in spent.items()}
    return Window(us, answers / seconds, max(spent["HTTP"], default=0.0) / (sum(spent["HTTP"]) or 1.0))


def _call(port: int, crew: ProcessPoolExecutor, crews: int, seconds: float) -> int:
    """Let all callers call for so long; returns how many answers there were."""
    each = [crew.submit(_calls, port, _CALLERS // crews, seconds) for _ in range(crews)]
    return sum(one.result() for one in each)


def _calls(port: int, count: int, seconds: float) -> int:
    bodies = [orjson.dumps({"input": f"{_TEXT} {number}", "encoding_format": "base64"}) for number in range(_BODIES)]
    calls = [callers.http_call("POST", "/v1/embeddings", body, port) for body in bodies]
    return asyncio.run(callers.again_and_again(port, calls, count, seconds, status=200))


def _figures(count: int, windows: list[Window]) -> list[Figure]:
    name, unit = f"{count} HTTP processes", "CPU us a call"
    rate = Figure(f"{name}: calls", "a second", tuple(window.calls_per_s for window in windows))
    if count == 0:
        return [Figure("all in one process", unit, tuple(window.us["parent"] for window in windows)), rate]
    by_role = [Figure(f"{name}: {role}", unit, tuple(window.us[role] for window in windows)) for role in _ROLES]
    busiest = Figure(f"{name}: the busiest", "share of them", tuple(window.busiest for window in windows))
    return [*by_role, busiest, rate]


def _goals(found: dict[int, list[Window]]) -> list[Goal]:
    """The engine's process must leave most of what a call costs to the others, or more of them would not help."""
    alone = median(window.us["parent"] for window in found[0])
    engine = median(window.us["engine"] for window in found[4])
    return [Goal("the engine's share of what a call costs in one process", engine / alone, 0.5, at_most=True)]


def _conditions(rounds: int, seconds: float, servers: int, crews: int) -> dict[str, object]:
    return {
        "model": "none: vectors of 384 numbers made beforehand, the tokenizer of all-MiniLM-L6-v2",
        "call": f"one text, {_TEXT!r} and a number; base64",
        "callers": f"{_CALLERS} connections from {crews} processes, each its next call as soon as it has its answer",
        "cores of the servers": servers,
        "rounds": rounds,
        "seconds a measurement": seconds,
    }
