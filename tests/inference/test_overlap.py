"""Two batches in flight on one device: the next is launched shortly before the first ends, and no earlier."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from inference.batcher import Batcher
from inference.config import Limits
from inference.cost import CostModel
from inference.errors import OutOfMemory, RuntimeFailed
from inference.lane import Lane
from inference.request import Batch, Report, Row, packed_shape
from inference.scheduler import Scheduler
from tests.fakes import call, request

pytestmark = pytest.mark.anyio


class Flight:
    """A batch on its way until the test lets it land."""

    def __init__(self, batch: Batch, busy_s: float | None, error: Exception | None = None) -> None:
        self.batch = batch
        self.busy_s = busy_s
        self.landing = threading.Event()
        self._error = error

    def wait(self) -> Sequence[Row]:
        assert self.landing.wait(30), "nobody let it land"
        if self._error is not None:
            raise self._error
        return [entry.request.tokens[:1].astype(np.float32) for entry in self.batch.entries]


class Airport:
    """A device that computes asynchronously: implements Runtime."""

    def __init__(self) -> None:
        self.flights: list[Flight] = []
        self.changed = threading.Condition()
        self.errors: list[Exception | None] = []  # of the next flights
        self.busy_s: float | None = None

    def launch(self, batch: Batch) -> Flight:
        with self.changed:
            flight = Flight(batch, self.busy_s, self.errors.pop(0) if self.errors else None)
            self.flights.append(flight)
            self.changed.notify_all()
        return flight

    async def launched(self, count: int) -> None:
        def wait() -> bool:
            with self.changed:
                return self.changed.wait_for(lambda: len(self.flights) >= count, 10)

        assert await asyncio.to_thread(wait), f"{len(self.flights)} batches were launched, not {count}"

    def land_all(self) -> None:
        for flight in self.flights:
            flight.landing.set()


@asynccontextmanager
async def serving(
    *airports: Airport, batch_s: float, reports: list[Report] | None = None, token_s: float = 0.0
) -> AsyncIterator[Batcher]:
    """A batcher that expects so many seconds of a batch, and of each token, and lets each device have two."""
    cost = CostModel()
    for tokens in (1, 8, 64, 1000) * 50:
        cost.observe(packed_shape([tokens]), batch_s + token_s * tokens)
    limits = Limits(max_batch_tokens=10_000, latency_target_s=1e3)
    batcher = Batcher(
        Scheduler(limits, {"m": Lane(packed=True, cost=cost)}, devices=len(airports)),
        {f"cuda:{number}": {"m": airport} for number, airport in enumerate(airports)},
        limits,
        clock=time.monotonic,
        observer=lambda event: reports.append(event) if reports is not None and isinstance(event, Report) else None,
        in_flight=2,
    )
    batcher.start()
    try:
        yield batcher
    finally:
        for airport in airports:
            airport.land_all()
        batcher.close()
        await asyncio.to_thread(batcher.join, 10.0)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "device-cuda:0"]


def ask(batcher: Batcher, *firsts: int, tokens: int = 8) -> "asyncio.Task[list[int]]":
    async def run() -> list[int]:
        inputs = [request(tokens, first=first) for first in firsts]
        results = await batcher.submit(call(*inputs, deadline=time.monotonic() + 100))
        return [int(result.row[0]) for result in results]

    return asyncio.ensure_future(run())


async def test_a_second_batch_is_launched_before_the_first_has_ended_and_no_third() -> None:
    device = Airport()
    async with serving(device, batch_s=0.001) as batcher:
        first = ask(batcher, 1)
        await device.launched(1)
        second = ask(batcher, 2)
        await device.launched(2)
        third = ask(batcher, 3)
        fourth = ask(batcher, 4)
        await asyncio.sleep(0.05)
        in_flight = len(device.flights)

        device.flights[0].landing.set()
        answered = await first
        await device.launched(3)
        together = [entry.request.tokens[0] for entry in device.flights[2].batch.entries]
        device.land_all()

        assert in_flight == 2
        assert (answered, await second, await third, await fourth) == ([1], [2], [3], [4])
        assert together == [3, 4]


async def test_what_comes_while_a_long_batch_runs_waits_for_company_until_it_ends() -> None:
    device = Airport()
    async with serving(device, batch_s=30.0) as batcher:
        first = ask(batcher, 1)
        await device.launched(1)
        others = [ask(batcher, number) for number in range(2, 6)]
        await asyncio.sleep(0.05)
        early = len(device.flights)

        device.flights[0].landing.set()  # long before it was expected
        await device.launched(2)
        device.land_all()

        assert early == 1
        assert await first == [1]
        assert [await other for other in others] == [[2], [3], [4], [5]]
        assert len(device.flights[1].batch.entries) == 4
    assert not threads()


async def test_a_batch_that_ends_long_before_it_was_expected_holds_nothing_up() -> None:
    device = Airport()
    async with serving(device, batch_s=0.001, token_s=0.02) as batcher:
        long = ask(batcher, 1, tokens=1000)
        await device.launched(1)
        await asyncio.sleep(0.1)  # the other thread has found out how long it would have to wait
        device.land_all()
        await long
        second = ask(batcher, 2)
        await device.launched(2)
        third = ask(batcher, 3)
        await device.launched(3)
        device.land_all()

        assert (await second, await third) == ([2], [3])


async def test_the_next_batch_is_chosen_shortly_before_the_predicted_end() -> None:
    device = Airport()
    async with serving(device, batch_s=0.2) as batcher:
        first = ask(batcher, 1)
        await device.launched(1)
        started = time.monotonic()
        second = ask(batcher, 2)
        await device.launched(2)
        waited_s = time.monotonic() - started
        device.land_all()

        assert await first == [1]
        assert await second == [2]
        assert waited_s > 0.1


@pytest.mark.parametrize("error", [OutOfMemory("too large"), RuntimeFailed("a bug")])
async def test_a_batch_that_fails_in_flight_is_halved_beside_the_other(error: RuntimeFailed) -> None:
    device = Airport()
    device.errors = [None, error]
    async with serving(device, batch_s=0.001) as batcher:
        first = ask(batcher, 1)
        await device.launched(1)
        second = ask(batcher, 2, 3)
        await device.launched(2)
        device.flights[1].landing.set()
        await device.launched(3)
        device.flights[2].landing.set()
        await device.launched(4)
        device.land_all()

        assert await first == [1]
        assert await second == [2, 3]
        assert [len(flight.batch.entries) for flight in device.flights] == [1, 2, 1, 1]


async def test_a_device_says_itself_how_long_it_was_busy() -> None:
    device, reports = Airport(), list[Report]()
    device.busy_s = 0.003
    async with serving(device, batch_s=0.001, reports=reports) as batcher:
        answer = ask(batcher, 1)
        await device.launched(1)
        await asyncio.sleep(0.02)
        device.land_all()
        await answer

    assert [report.device_s for report in reports] == [0.003]


async def test_both_threads_are_one_device_and_end_when_closed() -> None:
    device = Airport()
    async with serving(device, batch_s=0.001) as batcher:
        calls = [ask(batcher, 1)]
        await device.launched(1)
        calls.append(ask(batcher, 2))
        await device.launched(2)
        device.land_all()
        await asyncio.gather(*calls)
        with batcher.held():
            [told] = batcher.statistics().devices

    assert (told.name, told.alive, told.stuck, told.batches) == ("cuda:0", True, False, 2)
    assert not threads()


async def test_what_an_idle_device_could_start_does_not_queue_behind_a_busy_one() -> None:
    devices = Airport(), Airport()
    async with serving(*devices, batch_s=0.001) as batcher:
        for round_ in range(1, 30):
            calls = [ask(batcher, 1)]
            await airborne(devices, 2 * round_ - 1)
            calls.append(ask(batcher, 2))
            await airborne(devices, 2 * round_)

            assert [len(device.flights) for device in devices] == [round_, round_]
            for device in devices:
                device.land_all()
            await asyncio.gather(*calls)
            with batcher.held():
                pass  # both are idle


async def test_the_third_batch_is_chosen_by_when_the_first_really_ended() -> None:
    device = Airport()
    async with serving(device, batch_s=0.001, token_s=0.0005) as batcher:
        calls = [ask(batcher, 1, tokens=8)]
        await device.launched(1)
        calls.append(ask(batcher, 2, tokens=1000))  # half a second
        await device.launched(2)
        await asyncio.sleep(0.4)  # the first takes a hundred times as long as predicted
        device.flights[0].landing.set()
        ended = time.monotonic()
        calls.append(ask(batcher, 3))
        await device.launched(3)
        waited_s = time.monotonic() - ended
        device.land_all()
        await asyncio.gather(*calls)

    assert waited_s > 0.3


async def airborne(devices: Sequence[Airport], count: int) -> None:
    async with asyncio.timeout(10):
        while sum(len(device.flights) for device in devices) < count:
            await asyncio.sleep(0.001)
