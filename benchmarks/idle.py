"""How soon an idle device starts: from submit to launch, through a batcher whose runtime costs nothing."""

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import uvloop

from benchmarks.results import Figure, Findings, Goal
from inference import Limits
from inference.batcher import Batcher
from inference.cost import CostModel
from inference.lane import Lane
from inference.request import Batch, Call, Request, Row
from inference.scheduler import Scheduler

_MODEL = "free"
_SUBMITS = 1000
_PAUSE_S = 0.002  # long enough for the device's thread to fall asleep
_GOAL_MS = 2.0


class _Done:
    """Zeros at once: implements Launched."""

    busy_s: float | None = None

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def wait(self) -> Sequence[Row]:
        return [np.zeros(1, np.float32)] * self._rows


class _FreeRuntime:
    """Costs nothing and notes when it was asked: implements Runtime."""

    def __init__(self) -> None:
        self.launched = 0.0

    def launch(self, batch: Batch) -> _Done:
        self.launched = time.perf_counter()
        return _Done(len(batch.entries))


def run(rounds: int, seconds: float) -> Findings:
    """Measure rounds of 1000 submits, one after another; `seconds` has no say here."""
    waits_ms = [asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_waits_ms()) for _ in range(rounds)]
    figures = [
        Figure("submit to launch", "median ms", tuple(float(np.median(waits)) for waits in waits_ms)),
        Figure("submit to launch", "p99 ms", tuple(float(np.percentile(waits, 99)) for waits in waits_ms)),
    ]
    goal = Goal("submit to launch, median ms", figures[0].median, _GOAL_MS, at_most=True)
    return Findings("idle", "cpu", figures, [goal], {"rounds": rounds, "submits a round": _SUBMITS})


async def _waits_ms() -> list[float]:
    limits = Limits(max_batch_tokens=1024)
    runtime = _FreeRuntime()
    scheduler = Scheduler(limits, {_MODEL: Lane(packed=True, cost=CostModel())})
    batcher = Batcher(scheduler, {"cpu": {_MODEL: runtime}}, limits, clock=time.monotonic, observer=lambda event: None)
    batcher.start()
    waits = []
    for _ in range(_SUBMITS):
        await asyncio.sleep(_PAUSE_S)
        call = Call([Request(_MODEL, np.ones(8, np.int32))], deadline=time.monotonic() + 30)
        started = time.perf_counter()
        await batcher.submit(call)
        waits.append(1000 * (runtime.launched - started))
    batcher.close()
    batcher.join(5)
    return waits
