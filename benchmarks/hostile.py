"""
What a healthy caller notices of attacks: its p99 beside each of them, as a share of its p99 alone, in the same round.

Server on one core, caller and attackers on the other; the attackers are niced, and as fast as `benchmarks/attacks.py`
says. Twice its p99 alone is the most that a caller should see.

    python -m benchmarks hostile --rounds 3 --seconds 10
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np

from benchmarks import machine
from benchmarks.attacks import ATTACKS
from benchmarks.callers import call_of, connect
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import Server, serving

_PAUSE_S: Final = 0.005  # of the caller between its calls: it offers a load, it does not fill the server
_TEXT: Final = "The headrace brings the water of the river to the wheel of the mill."
_MOST: Final = 2.0


def run(rounds: int, seconds: float) -> Findings:
    """Measure the caller alone, then beside each attack, in every round."""
    core, callers_core = machine.two_cores()
    os.sched_setaffinity(0, {callers_core})
    alone: list[float] = []
    shares: dict[str, list[float]] = {name: [] for name in ATTACKS}
    for number in range(rounds):
        with serving(core, "--no-access-log") as server:
            for name in ATTACKS:
                before_s = asyncio.run(_p99_s(server, seconds))
                with _attacked(server, name):
                    beside_s = asyncio.run(_p99_s(server, seconds))
                alone.append(1000 * before_s)
                shares[name].append(beside_s / before_s)
                sys.stderr.write(f"round {number + 1} of {rounds}: {name} {shares[name][-1]:.2f}\n")
    figures = [Figure("alone", "p99 ms", tuple(alone))]
    figures += [Figure(f"beside {name}", "p99, as a share of that alone", tuple(told)) for name, told in shares.items()]
    goals = [Goal(f"{figure.name}, p99 share", figure.median, _MOST, at_most=True) for figure in figures[1:]]
    conditions = {"rounds": rounds, "seconds": seconds, "pause_s": _PAUSE_S}
    return Findings("hostile", "cpu", figures, goals, conditions)


async def _p99_s(server: Server, seconds: float) -> float:
    """Call again and again, on a keep-alive connection, as long as it lasts."""
    took: list[float] = []
    call, until = call_of(_TEXT, server.port), time.perf_counter() + seconds
    connection = await connect(server.port)
    while time.perf_counter() < until:
        started = time.perf_counter()
        await connection.ask(call)
        took.append(time.perf_counter() - started)
        await asyncio.sleep(_PAUSE_S)
    await connection.close()
    return float(np.percentile(took, 99))


@contextmanager
def _attacked(server: Server, name: str) -> Iterator[None]:
    attackers = subprocess.Popen([sys.executable, "-m", "benchmarks.attacks", name, str(server.port), "3600"])
    try:
        time.sleep(1)  # until it is under way
        yield
    finally:
        attackers.kill()
        attackers.wait()
