"""Each failure a hundred times, under load: no innocent call fails, hangs or is answered twice."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from inference.batcher import Batcher
from inference.config import Limits
from inference.cost import CostModel
from inference.errors import DeadlineExceeded, DeviceLost, InferenceError, OutOfMemory, RuntimeFailed
from inference.lane import Lane
from inference.request import Batch, Request, Row, RowFailed
from inference.runtime import Runtime
from inference.scheduler import Scheduler
from tests.fakes import Answer, EchoRuntime, GatedRuntime, ScriptedRuntime, call, request

pytestmark = pytest.mark.anyio

TIMES = 100
GUILTY = 13


def is_guilty(item: Request) -> bool:
    return bool(item.tokens[0] == GUILTY)


def batcher_of(runtime: Runtime) -> Batcher:
    limits = Limits(max_batch_tokens=200, latency_target_s=20.0)
    scheduler = Scheduler(limits, {"m": Lane(packed=True, cost=CostModel())})
    return Batcher(scheduler, {"cpu": {"m": runtime}}, limits, clock=time.monotonic, observer=lambda event: None)


async def under_load(batcher: Batcher, guilty: Callable[[], Request]) -> tuple[Counter[str], Counter[str]]:
    """Submit the guilty among eight times as many innocents, 32 at once; returns what became of each side."""
    outcomes: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    room = asyncio.Semaphore(32)

    async def one(number: int) -> None:
        is_bad = number % 9 == 0
        item = guilty() if is_bad else request(8, first=1000 + number)
        async with room:
            try:
                (result,) = await batcher.submit(call(item, deadline=time.monotonic() + 30))
                told = "right" if result.row[0] == item.tokens[0] else "wrong"
            except InferenceError as error:
                told = type(error).__name__
        outcomes[is_bad][told] += 1

    await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(9 * TIMES))), 60)
    return outcomes[True], outcomes[False]


async def closed(batcher: Batcher) -> None:
    batcher.close()
    await asyncio.to_thread(batcher.join, 10.0)


def poison(batch: Batch) -> None:
    if any(is_guilty(entry.request) for entry in batch.entries):
        raise RuntimeFailed("poison")


def too_large(batch: Batch) -> None:
    if batch.tokens > 100 or any(is_guilty(entry.request) for entry in batch.entries):
        raise OutOfMemory("does not fit")


def not_finite(batch: Batch) -> Sequence[Row | RowFailed]:
    return [
        RowFailed("not finite") if is_guilty(entry.request) else entry.request.tokens[:1].astype(np.float32)
        for entry in batch.entries
    ]


@pytest.mark.parametrize(
    ("script", "told"), [(poison, "RuntimeFailed"), (too_large, "OutOfMemory"), (not_finite, "RuntimeFailed")]
)
async def test_only_the_guilty_fail(script: Callable[[Batch], Sequence[Row | RowFailed] | None], told: str) -> None:
    batcher = batcher_of(ScriptedRuntime(script))
    batcher.start()

    guilty, innocent = await under_load(batcher, lambda: request(8, first=GUILTY))
    await closed(batcher)

    assert guilty == {told: TIMES}
    assert innocent == {"right": 8 * TIMES}


async def test_one_poison_sent_again_and_again_costs_the_device_little() -> None:
    runtime = ScriptedRuntime(poison)
    batcher, item = batcher_of(runtime), request(8, first=GUILTY)
    batcher.start()

    guilty, innocent = await under_load(batcher, lambda: item)
    await closed(batcher)

    assert guilty == {"RuntimeFailed": TIMES}
    assert innocent == {"right": 8 * TIMES}
    assert sum(1 for batch in runtime.batches if [entry.request for entry in batch.entries] == [item]) <= 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [DeviceLost("gone"), ValueError("a bug")])
async def test_a_lost_device_answers_everybody_at_once_every_time(error: Exception) -> None:
    for _ in range(TIMES):
        gated = GatedRuntime()

        class Lost(EchoRuntime):
            def launch(self, batch: Batch, gated: GatedRuntime = gated) -> Answer:
                gated.launch(batch)
                raise error

        batcher = batcher_of(Lost())
        batcher.start()
        tasks = [asyncio.ensure_future(batcher.submit(call(deadline=time.monotonic() + 30))) for _ in range(8)]
        await asyncio.sleep(0)
        gated.gate.set()

        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        await closed(batcher)

        assert {type(outcome) for outcome in outcomes} == {DeviceLost}
        assert not batcher.healthy


async def test_callers_of_a_stuck_device_end_at_their_deadlines_every_time() -> None:
    runtime = GatedRuntime()
    batcher = batcher_of(runtime)
    batcher.start()
    stuck = asyncio.ensure_future(batcher.submit(call(deadline=time.monotonic() + 60)))
    await asyncio.to_thread(runtime.entered.wait, 10)

    tasks = [asyncio.ensure_future(batcher.submit(call(deadline=time.monotonic() + 0.05))) for _ in range(TIMES)]
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    runtime.gate.set()
    answer = await stuck
    await closed(batcher)

    assert {type(outcome) for outcome in outcomes} == {DeadlineExceeded}
    assert len(answer) == 1
    assert len(runtime.batches) == 1
