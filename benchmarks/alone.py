"""
What a call costs that has the gateway to itself, by thread: with warm caches, and after others have used them.

Among others a call shares its batch with them, and finds the caches full of what they all need (`overhead`). Alone it
pays for a batch; and where the model runs on the same core, it has read all of its weights since the last call. Here
the runtime costs nothing, and a sum over as many bytes takes the place of the weights.
"""

import asyncio
import logging
import os
import time
from itertools import cycle
from statistics import median
from typing import Final

import numpy as np
import uvloop

from benchmarks import machine
from benchmarks.instant import instant
from benchmarks.overhead import ROWS, ask
from benchmarks.results import Figure, Findings
from gateway import logs
from gateway.config import LogConfig

_CALLS: Final = 300  # a round and way
_WEIGHTS: Final = 43_000_000  # bytes of all-MiniLM-L6-v2's layers in float32
_UNIT: Final = "CPU us a call"
_WAYS: Final = {"warm caches": False, "caches swept before": True}


def run(rounds: int, seconds: float) -> Findings:
    """Measure both ways in every round; `seconds` has no say here."""
    core, _ = machine.two_cores()
    os.sched_setaffinity(0, {core})
    found = [uvloop.run(_round()) for _ in range(rounds)]
    figures = [Figure(name, _UNIT, tuple(each[name] for each in found)) for name in found[0]]
    conditions = {"rounds": rounds, "calls a round": _CALLS, "route": ROWS[0].path, "swept": f"{_WEIGHTS} bytes"}
    return Findings("alone", "cpu", figures, [], conditions)


async def _round() -> dict[str, float]:
    made = instant("idle")
    sink = open(os.devnull, "w")  # noqa: ASYNC230, SIM115
    logging.getLogger().handlers.clear()
    logs.start(LogConfig(), sink)
    await made.lifecycle.start()
    bodies, weights = cycle(ROWS[0].bodies), np.ones(_WEIGHTS // 4, np.float32)
    found: dict[str, float] = {}
    for way, sweeps in _WAYS.items():
        loop_us, all_us = [], []
        for _ in range(_CALLS):
            if sweeps:
                weights.sum()
            before = time.thread_time(), time.process_time()
            await ask(made.app, ROWS[0], next(bodies))
            await asyncio.sleep(0.001)  # the device's thread ends its batch
            after = time.thread_time(), time.process_time()
            loop_us.append(1e6 * (after[0] - before[0]))
            all_us.append(1e6 * (after[1] - before[1]))
        found[f"{way}, the loop's thread"] = median(loop_us)
        found[f"{way}, all threads"] = median(all_us)
    made.lifecycle.abandon()
    await made.lifecycle.stop()
    logging.getLogger().handlers.clear()
    sink.close()
    return found
