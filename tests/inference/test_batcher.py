import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from inference.batcher import Batcher, Observer
from inference.config import Limits
from inference.cost import CostModel
from inference.demand import WINDOW_S
from inference.errors import (
    DeadlineExceeded,
    DeviceLost,
    InferenceError,
    OutOfMemory,
    Overloaded,
    RuntimeFailed,
    Unavailable,
)
from inference.lane import Lane
from inference.request import Batch, Call, Dispatched, Report, RowFailed, packed_shape
from inference.runtime import Runtime
from inference.scheduler import Scheduler, Work
from tests.fakes import Answer, EchoRuntime, FakeClock, GatedRuntime, ScriptedRuntime, call, request

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(
    *runtimes: Runtime,
    budget: int = 10_000,
    waiting: int = 10_000,
    clock: Callable[[], float] = time.monotonic,
    observer: Observer = lambda event: None,
    stuck_after_s: float = 60.0,
    token_s: float = 0.0,
) -> AsyncIterator[Batcher]:
    limits = Limits(max_batch_tokens=budget, max_waiting_tokens=waiting, stuck_after_s=stuck_after_s)
    lanes = {"m": Lane(packed=True, cost=taught(token_s))}
    devices = {f"cpu:{number}": {"m": runtime} for number, runtime in enumerate(runtimes)}
    scheduler = Scheduler(limits, lanes, devices=len(devices))
    batcher = Batcher(scheduler, devices, limits, clock=clock, observer=observer)
    batcher.start()
    try:
        yield batcher
    finally:
        for runtime in runtimes:
            if isinstance(runtime, GatedRuntime):
                runtime.gate.set()
        batcher.close()
        await asyncio.to_thread(batcher.join, 10.0)


def taught(token_s: float) -> CostModel:
    """A cost model that expects so many seconds a token; of 0 it is not taught anything."""
    cost = CostModel()
    for tokens in (1, 10, 100, 1000) * 50 if token_s else ():
        cost.observe(packed_shape([tokens]), tokens * token_s)
    return cost


def soon(within_s: float = 30.0) -> float:
    return time.monotonic() + within_s


async def held(batcher: Batcher, runtime: GatedRuntime) -> "asyncio.Task[object]":
    """One call that occupies the device until the gate opens."""
    task = asyncio.ensure_future(batcher.submit(call(deadline=soon())))
    await asyncio.to_thread(runtime.entered.wait, 10)
    return task


async def test_every_caller_gets_its_own_answer() -> None:
    async with serving(EchoRuntime()) as batcher:
        calls = [call(request(first=i), request(first=100 + i), deadline=soon()) for i in range(20)]

        answers = await asyncio.gather(*map(batcher.submit, calls))

    assert [[int(result.row[0]) for result in answer] for answer in answers] == [[i, 100 + i] for i in range(20)]


async def test_ten_entries_that_arrive_one_by_one_while_a_batch_runs_all_join_the_next() -> None:
    runtime = GatedRuntime()
    async with serving(runtime) as batcher:
        first = await held(batcher, runtime)

        others = []
        for i in range(10):
            others.append(asyncio.ensure_future(batcher.submit(call(request(first=i), deadline=soon()))))
            await asyncio.sleep(0)
        runtime.gate.set()
        await asyncio.gather(first, *others)

    assert [len(batch.entries) for batch in runtime.batches] == [1, 10]


async def test_a_call_over_the_budget_is_cut_into_batches_and_put_together_again() -> None:
    runtime = EchoRuntime()
    async with serving(runtime, budget=16) as batcher:
        answer = await batcher.submit(call(*(request(8, first=i) for i in range(7)), deadline=soon()))

    assert [int(result.row[0]) for result in answer] == list(range(7))
    assert max(batch.shape.tokens for batch in runtime.batches) == 16


async def test_a_caller_that_has_gone_never_reaches_the_device() -> None:
    runtime = GatedRuntime()
    async with serving(runtime) as batcher:
        first = await held(batcher, runtime)
        gone = [asyncio.ensure_future(batcher.submit(call(request(50), deadline=soon()))) for _ in range(50)]
        stays = asyncio.ensure_future(batcher.submit(call(request(3), deadline=soon())))
        await asyncio.sleep(0)

        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        runtime.gate.set()
        await asyncio.gather(first, stays)

    assert sum(batch.tokens for batch in runtime.batches[1:]) == 3


async def test_a_caller_that_goes_while_its_batch_runs_does_not_harm_the_others() -> None:
    runtime = GatedRuntime()
    async with serving(runtime) as batcher:
        blocker = await held(batcher, runtime)
        runtime.gate.set()
        await blocker
        runtime.gate.clear()
        runtime.entered.clear()
        gone = asyncio.ensure_future(batcher.submit(call(request(first=1), deadline=soon())))
        await asyncio.to_thread(runtime.entered.wait, 10)

        gone.cancel()
        stays = asyncio.ensure_future(batcher.submit(call(request(first=2), deadline=soon())))
        await asyncio.gather(gone, return_exceptions=True)
        runtime.gate.set()
        answer = await stays

    assert gone.cancelled()
    assert int(answer[0].row[0]) == 2


async def test_a_waiting_call_ends_at_its_own_deadline_although_the_device_is_stuck() -> None:
    runtime = GatedRuntime()
    async with serving(runtime) as batcher:
        await held(batcher, runtime)
        started = time.monotonic()

        with pytest.raises(DeadlineExceeded):
            await batcher.submit(call(deadline=soon(0.05)))

        assert time.monotonic() - started < 5.0
        assert batcher.statistics().scheduler.lanes[0].entries == 0


async def test_a_running_call_ends_at_its_own_deadline_too() -> None:
    async with serving(GatedRuntime()) as batcher:
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(call(deadline=soon(0.05)))


async def test_an_entry_found_late_when_its_turn_comes_is_answered_and_not_run() -> None:
    clock, runtime = FakeClock(), GatedRuntime()
    async with serving(runtime, clock=clock) as batcher:
        first = asyncio.ensure_future(batcher.submit(call(deadline=1e9)))
        await asyncio.to_thread(runtime.entered.wait, 10)
        late = asyncio.ensure_future(batcher.submit(call(deadline=100.0)))
        await asyncio.sleep(0)

        clock.now = 200.0
        runtime.gate.set()
        await first
        with pytest.raises(DeadlineExceeded):
            await late

    assert len(runtime.batches) == 1


@pytest.mark.parametrize("error", [RuntimeFailed("no"), OutOfMemory("no")])
async def test_a_failed_batch_fails_its_own_calls_and_the_next_one_runs(error: InferenceError) -> None:
    def script(batch: Batch) -> None:
        if batch.entries[0].request.tokens[0] == 13:
            raise error

    async with serving(ScriptedRuntime(script)) as batcher:
        with pytest.raises(type(error)):
            await batcher.submit(call(request(first=13), deadline=soon()))
        answer = await batcher.submit(call(request(first=2), deadline=soon()))

        assert int(answer[0].row[0]) == 2
        assert batcher.statistics().healthy


async def test_an_unusable_row_fails_its_call_alone() -> None:
    def script(batch: Batch) -> list[np.ndarray | RowFailed]:
        firsts = [int(entry.request.tokens[0]) for entry in batch.entries]
        return [RowFailed("not finite") if first == 13 else np.float32([first]) for first in firsts]

    runtime = ScriptedRuntime(script)
    async with serving(runtime) as batcher:
        calls = [call(request(first=first), deadline=soon()) for first in (1, 13, 2)]

        one, bad, two = await asyncio.gather(*map(batcher.submit, calls), return_exceptions=True)

    assert isinstance(bad, RuntimeFailed)
    assert isinstance(one, list) and isinstance(two, list)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    "error", [ValueError("bug"), MemoryError(), SystemExit(1), KeyboardInterrupt(), DeviceLost("x")]
)
async def test_an_exception_of_any_kind_in_the_device_thread_answers_everybody(error: BaseException) -> None:
    runtime = GatedRuntime()

    class Dying:
        def launch(self, batch: Batch) -> None:
            runtime.launch(batch)
            raise error

    async with serving(Dying()) as batcher:  # type: ignore[arg-type]
        running = await held(batcher, runtime)
        waiting = [asyncio.ensure_future(batcher.submit(call(deadline=soon()))) for _ in range(5)]
        await asyncio.sleep(0)

        runtime.gate.set()
        answers = await asyncio.wait_for(asyncio.gather(running, *waiting, return_exceptions=True), 5)

        assert {type(answer) for answer in answers} == {DeviceLost}
        assert not batcher.statistics().healthy
        with pytest.raises(DeviceLost):
            await batcher.submit(call(deadline=soon()))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_runtime_that_returns_too_few_rows_is_found_out() -> None:
    async with serving(ScriptedRuntime(lambda batch: [])) as batcher:
        with pytest.raises(DeviceLost):
            await batcher.submit(call(deadline=soon()))


async def test_a_batch_that_runs_far_too_long_is_stuck() -> None:
    clock, runtime = FakeClock(), GatedRuntime()
    async with serving(runtime, clock=clock) as batcher:
        running = asyncio.ensure_future(batcher.submit(call(deadline=1e9)))
        await asyncio.to_thread(runtime.entered.wait, 10)

        before = batcher.statistics()
        clock.now = 61.0
        after = batcher.statistics()
        runtime.gate.set()
        await running

    assert (before.healthy, before.devices[0].stuck) == (True, False)
    assert (after.healthy, after.devices[0].stuck) == (False, True)


async def test_a_stuck_device_is_lost_although_nobody_asks() -> None:
    runtime = GatedRuntime()
    async with serving(runtime, stuck_after_s=0.02) as batcher:
        running = await held(batcher, runtime)
        waiting = asyncio.ensure_future(batcher.submit(call(deadline=soon())))

        outcomes = await asyncio.wait_for(asyncio.gather(running, waiting, return_exceptions=True), 5)
        await asyncio.wait_for(batcher.lost(), 5)
        with pytest.raises(DeviceLost):
            await batcher.submit(call(deadline=soon()))

    assert {type(outcome) for outcome in outcomes} == {DeviceLost}
    assert len(runtime.batches) == 1


async def test_a_lost_device_stays_lost_when_its_batch_ends_after_all() -> None:
    runtime, ended = GatedRuntime(), threading.Event()
    async with serving(
        runtime, stuck_after_s=0.02, observer=lambda event: ended.set() if isinstance(event, Report) else None
    ) as batcher:
        running = await held(batcher, runtime)
        await asyncio.wait_for(batcher.lost(), 5)
        runtime.gate.set()
        await asyncio.to_thread(ended.wait, 10)

        assert not batcher.healthy
        assert not batcher.statistics().healthy
        with pytest.raises(DeviceLost):
            await running


async def test_a_batch_within_ten_times_its_prediction_is_not_stuck() -> None:
    runtime = GatedRuntime()
    async with serving(runtime, stuck_after_s=0.01, token_s=0.01) as batcher:
        running = asyncio.ensure_future(batcher.submit(call(request(1000), deadline=soon())))  # 10 s: 100 s are fine
        await asyncio.to_thread(runtime.entered.wait, 10)

        done, _ = await asyncio.wait({running}, timeout=0.1)  # ten looks of the watch
        runtime.gate.set()
        answer = await running

    assert not done
    assert len(answer) == 1


async def test_a_process_that_was_held_as_a_whole_gives_its_batch_the_time_again() -> None:
    runtime = GatedRuntime()
    async with serving(runtime, stuck_after_s=0.2) as batcher:
        running = await held(batcher, runtime)
        time.sleep(0.7)  # what SIGSTOP does to the loop
        for _ in range(3):
            await asyncio.sleep(0)  # the look that was due comes
        runtime.gate.set()
        answer = await running

    assert answer


async def test_a_short_batch_is_stuck_no_later_because_a_long_one_ran_before() -> None:
    runtime = GatedRuntime()
    async with serving(runtime, stuck_after_s=0.05, token_s=0.01) as batcher:
        long = asyncio.ensure_future(batcher.submit(call(request(1000), deadline=soon())))
        await asyncio.to_thread(runtime.entered.wait, 10)
        await asyncio.wait({long}, timeout=0.1)  # the watch has looked, while the long one ran
        runtime.gate.set()
        await long
        runtime.gate.clear()

        with pytest.raises(DeviceLost):
            await batcher.submit(call(request(1), deadline=soon(10)))


async def test_the_end_does_not_wait_for_a_lost_device() -> None:
    runtime = GatedRuntime()
    async with serving(runtime, stuck_after_s=0.02) as batcher:
        running = await held(batcher, runtime)
        await asyncio.wait_for(batcher.lost(), 5)

        batcher.close()
        await asyncio.wait_for(asyncio.to_thread(batcher.join, 20.0), 5)

        assert not runtime.gate.is_set()
        with pytest.raises(DeviceLost):
            await running


async def test_a_refused_call_says_when_to_come_back() -> None:
    runtime = GatedRuntime()
    async with serving(runtime, waiting=100) as batcher:
        first = await held(batcher, runtime)
        second = asyncio.ensure_future(batcher.submit(call(request(90), deadline=soon())))
        await asyncio.sleep(0)

        with pytest.raises(Overloaded) as refused:
            await batcher.submit(call(request(20), deadline=soon()))
        runtime.gate.set()
        await asyncio.gather(first, second)

    assert refused.value.retry_after_s > 0


async def test_closing_answers_what_was_taken_and_refuses_the_rest() -> None:
    runtime = GatedRuntime()
    async with serving(runtime) as batcher:
        taken = [await held(batcher, runtime)]
        taken += [asyncio.ensure_future(batcher.submit(call(deadline=soon()))) for _ in range(3)]
        await asyncio.sleep(0)

        batcher.close()
        with pytest.raises(Unavailable):
            await batcher.submit(call(deadline=soon()))
        runtime.gate.set()
        await asyncio.wait_for(batcher.drained(), 10)

        assert all(task.done() for task in taken) or len(await asyncio.gather(*taken)) == 4


async def test_abandoned_calls_end_at_once() -> None:
    runtime = GatedRuntime()
    async with serving(runtime) as batcher:
        taken = await held(batcher, runtime)

        count = batcher.abandon(Unavailable("shutting down"))

        assert count == 1
        with pytest.raises(Unavailable):
            await taken


async def test_each_batch_is_reported_once_and_its_waits_at_dispatch() -> None:
    events: list[Dispatched | Report] = []
    runtime = GatedRuntime()
    async with serving(runtime, observer=events.append) as batcher:
        first = await held(batcher, runtime)
        while_held = list(events)
        runtime.gate.set()
        await first

    assert [type(event) for event in while_held] == [Dispatched]
    assert [type(event) for event in events] == [Dispatched, Report]


async def test_calls_from_many_places_at_once_are_each_answered_exactly_once() -> None:
    chance = np.random.default_rng(0)
    async with serving(EchoRuntime(), budget=64, waiting=1_000_000) as batcher:

        async def one(number: int) -> bool:
            firsts = [number * 10 + i for i in range(int(chance.integers(1, 5)))]
            task = asyncio.ensure_future(
                batcher.submit(
                    call(*(request(int(chance.integers(1, 40)), first=first) for first in firsts), deadline=soon())
                )
            )
            if number % 7 == 0:
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                return True
            return [int(result.row[0]) for result in await task] == firsts

        right = await asyncio.gather(*(one(number) for number in range(500)))

        assert all(right)
        assert batcher.statistics().in_flight == 0


async def test_the_device_threads_end_when_closed() -> None:
    async with serving(EchoRuntime()) as batcher:
        await batcher.submit(call(deadline=soon()))

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("device-")]


def poisoned(batch: Batch) -> None:
    if any(entry.request.tokens[0] == 13 for entry in batch.entries):
        raise RuntimeFailed("poison")


async def gathered(batcher: Batcher, runtime: GatedRuntime, calls: list[Call]) -> list[object]:
    """Submit calls so that they all run in one batch, and return what became of each."""
    first = await held(batcher, runtime)
    tasks = [asyncio.ensure_future(batcher.submit(item)) for item in calls]
    await asyncio.sleep(0)
    runtime.gate.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


class PoisonableRuntime(GatedRuntime):
    def launch(self, batch: Batch) -> Answer:
        answer = super().launch(batch)
        poisoned(batch)
        return answer


class SecondFails(GatedRuntime):
    """Holds its second batch, and fails it when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.may_fail = threading.Event(), threading.Event()

    def launch(self, batch: Batch) -> Answer:
        answer = super().launch(batch)
        if len(self.batches) == 2:
            self.second.set()
            assert self.may_fail.wait(30)
            raise RuntimeFailed("once")
        return answer


async def test_a_poisonous_input_fails_alone_and_its_neighbours_are_answered() -> None:
    runtime = PoisonableRuntime()
    async with serving(runtime) as batcher:
        calls = [call(request(first=13 if i == 5 else i), deadline=soon()) for i in range(12) if i != 13]

        outcomes = await gathered(batcher, runtime, calls)

        assert isinstance(outcomes[5], RuntimeFailed)
        assert [type(outcome) for i, outcome in enumerate(outcomes) if i != 5] == [list] * 11
        assert len(runtime.batches) <= 2 + 2 * 4  # the held one, the whole, and two halves a level


async def test_a_poisonous_input_is_refused_at_the_door_for_a_while() -> None:
    runtime = ScriptedRuntime(poisoned)
    poison = request(first=13)
    async with serving(runtime) as batcher:
        for _ in range(5):
            with pytest.raises(RuntimeFailed):
                await batcher.submit(call(poison, deadline=soon()))

    assert len(runtime.batches) == 2


async def test_out_of_memory_splits_the_batch_until_it_fits() -> None:
    class Small(GatedRuntime):
        def launch(self, batch: Batch) -> Answer:
            answer = super().launch(batch)
            if batch.tokens > 20:
                raise OutOfMemory("21 tokens do not fit")
            return answer

    runtime = Small()
    async with serving(runtime) as batcher:
        outcomes = await gathered(batcher, runtime, [call(request(8), deadline=soon()) for _ in range(9)])

        assert [type(outcome) for outcome in outcomes] == [list] * 9


async def test_what_its_caller_left_behind_is_not_run_again_when_its_batch_fails() -> None:
    runtime = SecondFails()
    async with serving(runtime) as batcher:
        first = await held(batcher, runtime)
        calls = [call(request(first=i), deadline=soon()) for i in range(8)]
        tasks = [asyncio.ensure_future(batcher.submit(item)) for item in calls]
        await asyncio.sleep(0)
        runtime.gate.set()
        await first
        await asyncio.to_thread(runtime.second.wait, 10)

        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait(tasks[::2])
        runtime.may_fail.set()
        answers = await asyncio.gather(*tasks[1::2])

    again = [int(entry.request.tokens[0]) for batch in runtime.batches[2:] for entry in batch.entries]
    assert sorted(again) == [1, 3, 5, 7]
    assert [int(answer[0].row[0]) for answer in answers] == [1, 3, 5, 7]


async def test_identical_inputs_in_flight_run_once() -> None:
    runtime = GatedRuntime()
    async with serving(runtime) as batcher:
        item = request(first=5)

        outcomes = await gathered(batcher, runtime, [call(item, deadline=soon()) for _ in range(20)])

        assert [outcome[0].row[0] for outcome in outcomes] == [5.0] * 20  # type: ignore[index]
        assert sum(len(batch.entries) for batch in runtime.batches) == 2


async def test_a_late_item_of_a_large_call_runs_early_for_a_small_call_that_joins_it() -> None:
    runtime = GatedRuntime()
    async with serving(runtime, budget=80) as batcher:
        first, deadline = await held(batcher, runtime), soon()
        items = [request() for _ in range(50)]
        large = asyncio.ensure_future(batcher.submit(call(*items, deadline=deadline)))
        await asyncio.sleep(0)

        small = asyncio.ensure_future(batcher.submit(call(items[40], deadline=deadline)))
        await asyncio.sleep(0)
        runtime.gate.set()
        await asyncio.gather(first, large, small)

    assert items[40] in [item.request for item in runtime.batches[1].entries]


async def test_one_of_two_who_wait_for_the_same_input_may_go() -> None:
    runtime = GatedRuntime()
    async with serving(runtime) as batcher:
        first, item = await held(batcher, runtime), request(first=5)
        gone, stays = (asyncio.ensure_future(batcher.submit(call(item, deadline=soon()))) for _ in range(2))
        await asyncio.sleep(0)

        gone.cancel()
        await asyncio.wait([gone])
        runtime.gate.set()
        answer = await stays
        await first

    assert answer[0].row[0] == 5.0


async def test_a_call_that_comes_when_the_same_input_was_given_up_gets_its_own_answer() -> None:
    clock, runtime, item = FakeClock(), SecondFails(), request(first=5)
    async with serving(runtime, clock=clock) as batcher:
        first = await held_by(batcher, runtime, deadline=1e6)
        late = asyncio.ensure_future(batcher.submit(call(item, request(), deadline=100.0)))
        await asyncio.sleep(0)
        runtime.gate.set()
        await first
        await asyncio.to_thread(runtime.second.wait, 10)
        clock.now = 200.0  # by the time the batch of both fails, its deadline has passed
        runtime.may_fail.set()

        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(late, 10)
        answer = await asyncio.wait_for(batcher.submit(call(item, deadline=1000.0)), 10)

    assert answer[0].row[0] == 5.0


async def test_what_comes_after_the_giving_up_is_refused_and_not_forgotten() -> None:
    async with serving(EchoRuntime()) as batcher:
        batcher.close()
        batcher.abandon(Unavailable("shutting down"))

        with pytest.raises(Unavailable):
            await batcher.submit(call(deadline=soon()))


async def held_by(batcher: Batcher, runtime: GatedRuntime, deadline: float) -> "asyncio.Task[object]":
    task = asyncio.ensure_future(batcher.submit(call(deadline=deadline)))
    await asyncio.to_thread(runtime.entered.wait, 10)
    return task


async def test_a_failure_does_not_keep_what_its_batch_held_in_memory() -> None:
    alive: list[int] = []

    class Activation:
        pass

    held_in_frames: weakref.WeakSet[Activation] = weakref.WeakSet()

    def script(batch: Batch) -> None:
        alive.append(len(held_in_frames))
        activation = Activation()
        held_in_frames.add(activation)
        if len(batch.entries) > 1:
            try:
                raise MemoryError(activation)
            except MemoryError as err:
                raise OutOfMemory("no") from err

    async with serving(ScriptedRuntime(script)) as batcher:
        await batcher.submit(call(*(request() for _ in range(8)), deadline=soon()))

    assert set(alive) == {0}


async def test_demand_counts_what_is_taken_and_what_either_gate_refuses() -> None:
    runtime, clock = GatedRuntime(), FakeClock()
    async with serving(runtime, waiting=20, clock=clock) as batcher:
        first = asyncio.ensure_future(batcher.submit(call(request(8), deadline=soon())))
        await asyncio.to_thread(runtime.entered.wait, 10)
        taken = batcher.statistics().demand.offered

        with pytest.raises(Overloaded):
            await batcher.submit(call(request(50), deadline=soon()))
        exact = batcher.statistics().demand.offered - taken
        small, likely = packed_shape([25]), packed_shape([50])
        refused = batcher.refusal(Work("m", small, deadline=soon(), likely=likely))
        early = batcher.statistics().demand.offered - exact - taken
        passed = batcher.refusal(Work("m", packed_shape([8]), deadline=soon()))
        after = batcher.statistics().demand.offered

        runtime.gate.set()
        await first

    assert refused is not None and passed is None
    assert taken > 0.0
    assert exact > taken
    assert early == pytest.approx(exact)
    assert after == pytest.approx(taken + exact + early)


async def test_work_that_is_here_is_in_flight_until_it_is_answered() -> None:
    runtime, clock = GatedRuntime(), FakeClock()
    async with serving(runtime, clock=clock) as batcher:
        running = asyncio.ensure_future(batcher.submit(call(request(8), deadline=1e6)))
        await asyncio.to_thread(runtime.entered.wait, 10)
        clock.now = 300.0
        here = batcher.statistics().demand

        runtime.gate.set()
        await running
        batcher.close()
        await asyncio.to_thread(batcher.join, 10.0)
        at_once = batcher.statistics().demand
        clock.now = 600.0
        gone = batcher.statistics().demand

    assert here.in_flight > 0.0
    assert gone.in_flight < 1e-6
    assert here.tokens_per_s is not None and at_once.tokens_per_s is not None
    assert at_once.tokens_per_s < here.tokens_per_s  # the batch took far longer than was predicted


async def test_what_waits_is_in_flight_too() -> None:
    runtime, clock = GatedRuntime(), FakeClock()
    async with serving(runtime, clock=clock) as batcher:
        running = asyncio.ensure_future(batcher.submit(call(request(8), deadline=1e6)))
        await asyncio.to_thread(runtime.entered.wait, 10)
        clock.now = 300.0
        one = batcher.statistics().demand.in_flight
        waiting = asyncio.ensure_future(batcher.submit(call(request(80), deadline=1e6)))
        await asyncio.sleep(0)
        clock.now = 600.0
        both = batcher.statistics().demand.in_flight
        waiting.cancel()
        runtime.gate.set()
        await asyncio.gather(running, waiting, return_exceptions=True)

    assert both > 1.5 * one


async def test_an_answer_from_what_is_under_way_is_no_demand() -> None:
    runtime, clock = GatedRuntime(), FakeClock()
    async with serving(runtime, clock=clock) as batcher:
        same = request(8)
        calls = [asyncio.ensure_future(batcher.submit(call(same, deadline=1e6))) for _ in range(2)]
        await asyncio.to_thread(runtime.entered.wait, 10)
        demand = batcher.statistics().demand
        runtime.gate.set()
        await asyncio.gather(*calls)

    assert demand.tokens_per_s is not None
    assert demand.offered == pytest.approx(8 / demand.tokens_per_s / WINDOW_S)


async def test_a_model_is_added_while_others_serve_and_goes_when_its_last_batch_has_ended() -> None:
    observed: list[Dispatched | Report] = []
    old, new = GatedRuntime(), EchoRuntime()
    async with serving(old, observer=observed.append) as batcher:
        running = await held(batcher, old)
        batcher.add("m@2", Lane(packed=True, cost=CostModel()), {"cpu:0": new})
        later = asyncio.ensure_future(batcher.submit(call(request(model="m@2", first=7), deadline=soon())))
        retired = asyncio.ensure_future(batcher.retire("m"))
        await asyncio.sleep(0)
        [both] = batcher.statistics().scheduler.lanes
        early = retired.done()
        old.gate.set()
        await running
        await retired

        assert [int(result.row[0]) for result in await later] == [7]
        assert not early
        assert (both.model, both.entries) == ("m", 1)
        assert [lane.model for lane in batcher.statistics().scheduler.lanes] == ["m"]
    assert [batch.model for batch in new.batches] == ["m@2"]
    assert {event.model for event in observed} == {"m"}


async def test_a_model_whose_callers_have_all_gone_is_held_by_its_batch_alone() -> None:
    runtime = GatedRuntime()
    async with serving(runtime) as batcher:
        running = await held(batcher, runtime)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        retired = asyncio.ensure_future(batcher.retire("m"))
        await asyncio.sleep(0)
        early = retired.done()
        runtime.gate.set()
        await retired

        assert not early
        assert batcher.statistics().scheduler.lanes == ()


async def test_no_retirement_waits_for_a_device_that_is_lost() -> None:
    clock, runtime = FakeClock(), GatedRuntime()
    async with serving(runtime, clock=clock, stuck_after_s=0.01) as batcher:
        running = asyncio.ensure_future(batcher.submit(call(deadline=1e9)))
        await asyncio.to_thread(runtime.entered.wait, 10)
        retired = asyncio.ensure_future(batcher.retire("m"))
        await asyncio.sleep(0)
        clock.now = 3600.0
        await batcher.lost()
        await retired

        with pytest.raises(DeviceLost):
            await running


async def test_nothing_runs_while_the_devices_are_held_and_what_came_runs_after() -> None:
    runtime = GatedRuntime()
    inside, leave = threading.Event(), threading.Event()

    async with serving(runtime) as batcher:

        def hold() -> list[int]:
            with batcher.held():
                inside.set()
                assert leave.wait(30)
                return [len(batch.entries) for batch in runtime.batches]

        running = await held(batcher, runtime)
        holding = asyncio.ensure_future(asyncio.to_thread(hold))
        while_it_ran = await asyncio.to_thread(inside.wait, 0.05)
        runtime.gate.set()
        await running
        assert await asyncio.to_thread(inside.wait, 30)
        runtime.entered.clear()
        later = asyncio.ensure_future(batcher.submit(call(request(first=9), deadline=soon())))
        while_held = await asyncio.to_thread(runtime.entered.wait, 0.2)
        leave.set()

        assert not while_it_ran
        assert not while_held
        assert await holding == [1]
        assert [int(result.row[0]) for result in await later] == [9]  # type: ignore[union-attr]


Two = tuple[GatedRuntime, GatedRuntime]


async def both_held(batcher: Batcher, runtimes: Two) -> "list[asyncio.Task[object]]":
    """Two calls, each of which occupies a device until its gate opens, in the order of the devices."""
    calls = [call(request(first=number), deadline=soon()) for number in (901, 902)]
    tasks = []
    for item in calls:
        tasks.append(asyncio.ensure_future(batcher.submit(item)))
        await until(lambda: sum(len(each.batches) for each in runtimes) == len(tasks))
    return tasks if firsts(runtimes[0].batches[0]) == [901] else tasks[::-1]


async def until(happened: Callable[[], bool]) -> None:
    """Let the loop and the devices' threads run until something has happened."""
    async with asyncio.timeout(10):
        while not happened():
            await asyncio.sleep(0)


def firsts(batch: Batch) -> list[int]:
    return [int(entry.request.tokens[0]) for entry in batch.entries]


async def test_two_devices_run_two_batches_at_once() -> None:
    runtimes = GatedRuntime(), GatedRuntime()
    async with serving(*runtimes) as batcher:
        running = await both_held(batcher, runtimes)
        for runtime in runtimes:
            runtime.gate.set()
        answers = await asyncio.gather(*running)
        await until(lambda: [device.batches for device in batcher.statistics().devices] == [1, 1])

        assert [device.name for device in batcher.statistics().devices] == ["cpu:0", "cpu:1"]
        assert {int(answer[0].row[0]) for answer in answers} == {901, 902}  # type: ignore[index]


@pytest.mark.parametrize("first", [0, 1])
async def test_the_next_batch_goes_to_the_device_that_frees_first_and_takes_all_that_has_come(first: int) -> None:
    runtimes = GatedRuntime(), GatedRuntime()
    async with serving(*runtimes) as batcher:
        running = await both_held(batcher, runtimes)
        later = [asyncio.ensure_future(batcher.submit(call(deadline=soon()))) for _ in range(10)]
        await asyncio.sleep(0)

        runtimes[first].gate.set()
        await asyncio.gather(running[first], *later)
        still = not running[1 - first].done()
        runtimes[1 - first].gate.set()
        await running[1 - first]

    assert still
    assert [len(batch.entries) for batch in runtimes[first].batches] == [1, 10]
    assert [len(batch.entries) for batch in runtimes[1 - first].batches] == [1]


async def test_a_call_that_is_spread_over_both_devices_is_put_together_in_its_own_order() -> None:
    runtimes = GatedRuntime(), GatedRuntime()
    async with serving(*runtimes, budget=16) as batcher:
        answer = asyncio.ensure_future(batcher.submit(call(*(request(8, first=i) for i in range(9)), deadline=soon())))
        await until(lambda: all(runtime.batches for runtime in runtimes))

        later = max(runtimes, key=lambda runtime: firsts(runtime.batches[0]))
        later.gate.set()  # the first inputs are answered last
        await until(lambda: len(later.batches) == 4)
        for runtime in runtimes:
            runtime.gate.set()

        assert [int(result.row[0]) for result in await answer] == list(range(9))


async def test_calls_on_two_devices_are_each_answered_once_and_no_input_runs_twice() -> None:
    runtimes = EchoRuntime(), EchoRuntime()
    async with serving(*runtimes, budget=64, waiting=1_000_000) as batcher:
        calls = [call(*(request(1 + i % 30) for i in range(n % 4 + 1)), deadline=soon()) for n in range(400)]

        answers = await asyncio.gather(*map(batcher.submit, calls))

    ran = [entry.request for runtime in runtimes for batch in runtime.batches for entry in batch.entries]
    assert len(ran) == len(set(map(id, ran))) == sum(len(item.requests) for item in calls)
    for item, answer in zip(calls, answers, strict=True):
        assert [int(result.row[0]) for result in answer] == [int(each.tokens[0]) for each in item.requests]


async def test_a_batch_that_is_halved_on_one_device_does_not_disturb_the_other() -> None:
    runtimes = PoisonableRuntime(), PoisonableRuntime()
    async with serving(*runtimes) as batcher:
        running = await both_held(batcher, runtimes)
        calls = [call(request(first=13 if i == 5 else i), deadline=soon()) for i in range(12)]
        tasks = [asyncio.ensure_future(batcher.submit(item)) for item in calls]
        await asyncio.sleep(0)

        runtimes[0].gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        still = not running[1].done()
        runtimes[1].gate.set()
        await asyncio.gather(*running)

    assert still
    assert isinstance(outcomes[5], RuntimeFailed)
    assert [type(outcome) for i, outcome in enumerate(outcomes) if i != 5] == [list] * 11
    assert len(runtimes[1].batches) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_one_of_two_devices_that_is_lost_fails_all_calls_and_ends_the_process() -> None:
    class Dying(GatedRuntime):
        def launch(self, batch: Batch) -> Answer:
            super().launch(batch)
            raise DeviceLost("gone")

    runtimes = Dying(), GatedRuntime()
    async with serving(*runtimes) as batcher:
        running = await both_held(batcher, runtimes)
        waiting = asyncio.ensure_future(batcher.submit(call(deadline=soon())))
        await asyncio.sleep(0)

        runtimes[0].gate.set()
        outcomes = await asyncio.wait_for(asyncio.gather(*running, waiting, return_exceptions=True), 5)
        await asyncio.wait_for(batcher.lost(), 5)
        with pytest.raises(DeviceLost):
            await batcher.submit(call(deadline=soon()))

        assert {type(outcome) for outcome in outcomes} == {DeviceLost}
        assert [device.alive for device in batcher.statistics().devices] == [False, True]
        assert not batcher.healthy


async def test_one_of_two_devices_that_is_stuck_is_lost_while_the_other_answers() -> None:
    clock = FakeClock()
    runtimes = GatedRuntime(), GatedRuntime()
    async with serving(*runtimes, clock=clock) as batcher:
        running = [asyncio.ensure_future(batcher.submit(call(deadline=1e9)))]
        await until(lambda: any(runtime.batches for runtime in runtimes))
        [free] = [runtime for runtime in runtimes if not runtime.batches]
        free.gate.set()
        clock.now = 61.0
        answer = await batcher.submit(call(request(first=5), deadline=1e9))
        stuck = {device.name: device.stuck for device in batcher.statistics().devices}

        assert int(answer[0].row[0]) == 5
        assert sorted(stuck.values()) == [False, True]
        assert not batcher.healthy
        for runtime in runtimes:
            runtime.gate.set()
        await asyncio.gather(*running)


async def test_a_model_goes_when_its_last_batch_on_any_device_has_ended_and_the_next_runs_on_both() -> None:
    old, new = (GatedRuntime(), GatedRuntime()), (GatedRuntime(), GatedRuntime())
    async with serving(*old) as batcher:
        running = await both_held(batcher, old)
        batcher.add("m@2", Lane(packed=True, cost=CostModel()), {"cpu:0": new[0], "cpu:1": new[1]})
        retired = asyncio.ensure_future(batcher.retire("m"))
        old[0].gate.set()
        await running[0]
        half = retired.done()
        old[1].gate.set()
        await asyncio.gather(running[1], retired)
        later = [asyncio.ensure_future(batcher.submit(call(request(model="m@2"), deadline=soon())))]
        await until(lambda: any(runtime.batches for runtime in new))
        later.append(asyncio.ensure_future(batcher.submit(call(request(model="m@2"), deadline=soon()))))
        await until(lambda: all(runtime.batches for runtime in new))
        for runtime in new:
            runtime.gate.set()
        await asyncio.gather(*later)

    assert not half


async def test_a_model_does_not_go_between_two_attempts_of_its_batch() -> None:
    failed, go_on = threading.Event(), threading.Event()

    def observer(event: Dispatched | Report) -> None:
        if isinstance(event, Report) and event.error is not None and not failed.is_set():
            failed.set()
            assert go_on.wait(30)

    class Failing(EchoRuntime):
        def launch(self, batch: Batch) -> Answer:
            raise RuntimeFailed("no")

    async with serving(Failing(), EchoRuntime(), observer=observer) as batcher:
        gone: list[asyncio.Task[object]] = []
        while not failed.is_set():  # until the first device has taken one
            gone.append(asyncio.ensure_future(batcher.submit(call(request(), request(), deadline=soon()))))
            await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        retired = asyncio.ensure_future(batcher.retire("m"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        early = retired.done()
        go_on.set()
        await asyncio.wait_for(retired, 10)

        assert not early
        assert batcher.healthy


async def test_to_hold_the_devices_is_to_wait_for_all() -> None:
    runtimes = GatedRuntime(), GatedRuntime()
    inside = threading.Event()

    async with serving(*runtimes) as batcher:

        def hold() -> None:
            with batcher.held():
                inside.set()

        running = await both_held(batcher, runtimes)
        holding = asyncio.ensure_future(asyncio.to_thread(hold))
        runtimes[0].gate.set()
        await running[0]
        early = await asyncio.to_thread(inside.wait, 0.2)
        runtimes[1].gate.set()
        await asyncio.gather(running[1], holding)

    assert not early


async def test_two_devices_have_twice_the_capacity() -> None:
    told = []
    for runtimes in ([EchoRuntime()], [EchoRuntime(), EchoRuntime()]):
        async with serving(*runtimes, clock=FakeClock()) as batcher:
            await batcher.submit(call(request(8), deadline=1e6))
            with batcher.held():  # the device's thread has counted its batch
                told.append(batcher.statistics().demand)

    one, two = told
    assert one.tokens_per_s is not None
    assert two.tokens_per_s == pytest.approx(2 * one.tokens_per_s)
    assert two.offered == pytest.approx(one.offered / 2)
