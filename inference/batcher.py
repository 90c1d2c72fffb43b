"""
The shell around the scheduler: device threads pull batches, replies go home.

A batch is formed at the moment its device can take it, so all that has arrived by then may join.
One lock guards the scheduler; one condition wakes the threads; no timer, no polling.
"""

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from inference.config import Limits
from inference.demand import Demand, DemandMeter
from inference.device_thread import DeviceStatistics, DeviceThread
from inference.errors import DeadlineExceeded, DeviceLost, InferenceError, Overloaded, RuntimeFailed, Unavailable
from inference.lane import Lane
from inference.reply import Pending
from inference.request import Batch, Call, Dispatched, Entry, Report, Result, Shape, name_of
from inference.reuse import Plan, Reuse, ReuseStatistics
from inference.runtime import Runtime
from inference.scheduler import Decision, Refused, Scheduler, SchedulerStatistics, Work
from inference.settlement import Settlement, report_of, settle, settlements

_log = logging.getLogger(__name__)
_MOMENT_S: Final = 0.1

Observer = Callable[[Dispatched | Report], None]


@dataclass(frozen=True, slots=True)
class BatcherStatistics:
    """A snapshot for probes and metrics."""

    scheduler: SchedulerStatistics
    devices: tuple[DeviceStatistics, ...]
    in_flight: int  # calls admitted and not yet answered
    reuse: ReuseStatistics
    demand: Demand

    @property
    def healthy(self) -> bool:
        """Whether every device thread is alive and moving."""
        return all(device.alive and not device.stuck for device in self.devices)


class Batcher:
    """The in-process dynamic micro-batcher."""

    def __init__(
        self,
        scheduler: Scheduler,
        devices: Mapping[str, Mapping[str, Runtime]],
        limits: Limits,
        *,
        clock: Callable[[], float],
        observer: Observer,
        in_flight: int = 1,
    ) -> None:
        """Take the scheduler, for each device the runtimes loaded on it, by model, and how many batches it may have."""
        self._scheduler = scheduler
        self._limits = limits
        self._clock = clock
        self._observer = observer
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._freed = threading.Condition(lock)  # a batch of a device that may have several has ended
        self._several_overlap = in_flight > 1 and len(devices) > 1
        self._freed_at: dict[str, float] = {}  # by device: when its last batch ended
        self._closing = False
        self._lost: DeviceLost | None = None
        self._holds = 0  # how many ask the devices to take no batch
        self._leaving: dict[str, asyncio.Event] = {}  # models that get no more calls -> none of them runs any more
        self._demand = DemandMeter(len(devices), limits.latency_target_s)
        self._reuse = Reuse(limits.cache_bytes, limits.quarantine_s, clock)
        self._pending: set[Pending] = set()
        self._dead = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._devices = [
            DeviceThread(name, runtimes, self._live) for name, runtimes in devices.items() for _ in range(in_flight)
        ]

    def start(self) -> None:
        """Start the device threads, and watch them; call it on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        for device in self._devices:
            device.thread.start()
        self._watch(self._loop, self._loop.time())

    def add(self, model: str, lane: Lane, runtimes: Mapping[str, Runtime]) -> None:
        """Take calls for one more model, which is loaded on every device."""
        with self._changed:
            for device in self._devices:
                device.runtimes[model] = runtimes[device.state.name]
            self._scheduler.open(model, lane)

    async def retire(self, model: str) -> None:
        """Forget a model once nothing of it waits or runs; who calls this sends it nothing more."""
        idle = asyncio.Event()
        with self._changed:
            self._leaving[model] = idle
            self._notice_leaving()
        await idle.wait()
        with self._changed:
            del self._leaving[model]
            if self._lost is not None:
                return  # the process is about to end, and a batch that hangs may be the model's
            self._scheduler.close(model)
            for device in self._devices:
                del device.runtimes[model]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no batch run meanwhile, on any device (blocking: not on the event loop, nor on a device's thread)."""
        with self._changed:
            self._holds += 1
            self._changed.wait_for(lambda: not any(device.taken and not device.lost for device in self._devices))
        try:
            yield
        finally:
            with self._changed:
                self._holds -= 1
                self._changed.notify_all()

    async def submit(self, call: Call) -> list[Result]:
        """Run a call: admitted whole or refused whole, and over at its deadline whatever the device does."""
        loop = asyncio.get_running_loop()
        pending = Pending(loop, len(call.requests))
        now = self._clock()
        plan = self._admit(call, pending, now)
        self._pending.add(pending)
        self._idle.clear()
        late = DeadlineExceeded("the deadline passed before the answer")
        timer = loop.call_later(call.deadline - now, pending.fail, late)
        try:
            return await pending.future
        finally:
            timer.cancel()
            self._forget(pending, self._reuse.end(plan))

    def refusal(self, work: Work) -> Refused | None:
        """Say why such a call would be refused now, or None."""
        with self._changed:
            now = self._clock()
            refused = self._scheduler.refusal(work, now)
            if refused is not None:  # what passes is counted when it is submitted
                self._offered(work.model, work.likely or work.shape, now)
            return refused

    @property
    def healthy(self) -> bool:
        """Whether every device thread is alive and moving; cheap enough to ask for every call."""
        now = self._clock()
        return not any(device.lost or device.spare_s(self._limits, now) <= 0 for device in self._devices)

    async def lost(self) -> None:
        """Wait until a device thread has died, or is stuck."""
        await self._dead.wait()

    async def drained(self) -> None:
        """Wait until no call is in flight."""
        await self._idle.wait()

    def abandon(self, error: InferenceError) -> int:
        """Fail every call in flight, on the event loop; returns how many."""
        pending = list(self._pending)
        for call in pending:
            call.fail(error)
        return len(pending)

    def close(self) -> None:
        """Refuse new calls and stop the device threads once nothing waits."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Wait for the device threads to end; a lost one gets a moment (it is a daemon, and may never end)."""
        for device in self._devices:
            device.thread.join(min(timeout_s, _MOMENT_S) if device.lost else timeout_s)

    def statistics(self) -> BatcherStatistics:
        """Take a snapshot."""
        now = self._clock()
        with self._changed:
            waiting, demand = self._scheduler.statistics(now), self._demand.read(now)
        devices: dict[str, DeviceStatistics] = {}
        for device in self._devices:
            told = device.statistics(self._limits, now)
            devices[told.name] = devices[told.name].and_of(told) if told.name in devices else told
        return BatcherStatistics(waiting, tuple(devices.values()), len(self._pending), self._reuse.statistics(), demand)

    def _admit(self, call: Call, pending: Pending, now: float) -> Plan:
        """Take a call in: seats in what is under way, entries for the rest; all of it under the lock, or nothing."""
        keys = self._reuse.keys(call)
        with self._changed:
            if self._lost is not None:
                raise self._lost
            if self._closing:
                raise Unavailable("shutting down")
            plan = self._reuse.plan(call, keys, pending, self._scheduler.holds)
            entries = [Entry(flight.request, call, flight, now) for flight in plan.fresh]
            self._offered(call.requests[0].model, sum((entry.shape for entry in entries), Shape()), now)
            refused = self._scheduler.add(entries, now) if entries else None
            self._demand.hold(self._scheduler.in_flight_s(), now)
            if refused is not None:
                raise Overloaded(refused.reason, refused.retry_after_s)
            self._scheduler.hasten(plan.joined(), call.deadline)
            self._reuse.begin(plan, entries, call.deadline)
            self._changed.notify_all()
        return plan

    def _offered(self, model: str, work: Shape, now: float) -> None:
        self._demand.offer(work.tokens, self._scheduler.price_s(model, work), now)

    def _forget(self, pending: Pending, unwanted: Sequence[Entry]) -> None:
        self._pending.discard(pending)
        if not self._pending:
            self._idle.set()
        if unwanted:
            with self._changed:
                for entry in unwanted:
                    self._scheduler.cancel(entry)
                self._notice_leaving()

    def _notice_leaving(self) -> None:
        """Tell who waits for it that nothing of a model waits or runs any more (any thread, under the lock)."""
        for model, idle in self._leaving.items():
            taken = any(device.taken == model for device in self._devices)  # or between two attempts
            if self._lost is not None or not (taken or self._scheduler.is_busy(model)):
                self._call(idle.set)

    def _watch(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        """Lose a device that is stuck; else look again at the first moment at which one can be."""
        now = self._clock()
        held = loop.time() - due > self._limits.stuck_after_s  # the whole process: that says nothing of a device
        for device in () if held else self._devices:
            if not device.lost and device.spare_s(self._limits, now) <= 0:
                self._lose(device, DeviceLost("a batch does not end"))
        moving = [device for device in self._devices if not device.lost and device.thread.is_alive()]
        if moving:
            soonest_s = self._limits.stuck_after_s if held else min(one.spare_s(self._limits, now) for one in moving)
            at = loop.time() + min(soonest_s, self._limits.stuck_after_s)  # of a batch that begins after this look
            loop.call_at(at, self._watch, loop, at)

    def _live(self, device: DeviceThread) -> None:
        try:
            self._serve(device)
        finally:
            self._ended(device, sys.exception())

    def _serve(self, device: DeviceThread) -> None:
        while (decision := self._next(device)) is not None:
            self._give_up(decision.expired)
            if decision.batch is not None:
                taken = self._clock()
                self._run(device, decision.batch)
                self._ran(device, decision.batch, taken)

    def _next(self, device: DeviceThread) -> Decision | None:
        with self._changed:
            while True:
                now = self._clock()
                beside = self._beside(device)
                busy_until = max((other.due for other in beside), default=now)
                if busy_until - device.lead_s > now:
                    self._freed.wait(busy_until - device.lead_s - now)  # what runs later is chosen later
                    continue
                if beside and self._is_one_idle():
                    self._changed.wait()  # what comes is the idle one's
                    continue
                decision = self._scheduler.decide(device.state, now) if not self._holds else Decision()
                if decision.batch is not None or decision.expired:
                    if decision.batch is not None:
                        device.take(decision.batch, max(now, busy_until))
                        if self._several_overlap:
                            self._changed.notify_all()  # those that left it to this one
                    return decision
                if self._closing and not self._holds:
                    return None
                self._changed.wait(None if decision.wake_at is None else max(0.0, decision.wake_at - now))

    def _is_one_idle(self) -> bool:
        """Whether some device has no batch at all."""
        taken = {one.state.name for one in self._devices if one.taken is not None}
        return any(one.state.name not in taken for one in self._devices)

    def _beside(self, device: DeviceThread) -> list[DeviceThread]:
        """Return the other threads of the same device that have a batch."""
        name = device.state.name
        beside = (one for one in self._devices if one.state.name == name and one is not device and not one.lost)
        return [one for one in beside if one.taken is not None]

    def _ran(self, device: DeviceThread, batch: Batch, taken: float) -> None:
        """Tell the meter how long the device was not free: the batch, its halves if it failed, and the way home."""
        with self._changed:
            now = self._clock()
            device.taken = None
            self._demand.ran(batch.predicted_s, now - max(taken, self._freed_at.get(device.state.name, taken)))
            self._freed_at[device.state.name] = now
            for other in self._beside(device):
                other.begins(now)
            self._freed.notify_all()
            self._demand.hold(self._scheduler.in_flight_s(), now)
            self._notice_leaving()
            if self._holds:
                self._changed.notify_all()

    def _run(self, device: DeviceThread, batch: Batch) -> None:
        """Run a batch; of one that fails, its halves and theirs, until only the guilty have failed."""
        waits_s = tuple(self._clock() - entry.arrived for entry in batch.entries)
        self._observer(Dispatched(name_of(batch.model), waits_s))
        parts = [batch]
        while parts:
            part = parts.pop()
            error = self._attempt(device, part)
            if error is None:
                continue
            if len(part.entries) == 1:
                self._deliver([(part.entries[0], error)])
                continue
            with self._changed:
                halves, late = self._scheduler.split(part, self._clock())
            self._give_up(late)
            parts += reversed(halves)

    def _attempt(self, device: DeviceThread, batch: Batch) -> RuntimeFailed | None:
        """Run a batch once and deliver its answers, or return why it failed."""
        started = self._clock()
        device.running = (batch, started)
        error: RuntimeFailed | None = None
        busy_s: float | None = None
        try:
            launched = device.runtimes[batch.model].launch(batch)
            device.launched(self._clock() - started)
            outcomes = launched.wait()
            busy_s = launched.busy_s
        except RuntimeFailed as failure:
            error = failure.with_traceback(None)  # its frames, and those of its causes, hold the batch's tensors
            error.__cause__ = error.__context__ = None
        now = self._clock()
        device.running = None
        device.batches += 1
        began = started if busy_s is None else max(started, now - busy_s)  # behind the batch that ran then
        report = report_of(batch, began, now - began if busy_s is None else busy_s, error)
        if error is None:
            self._deliver(settlements(batch, outcomes, report))
        with self._changed:
            self._scheduler.finished(batch, report, now)
        self._observer(report)
        return error

    def _give_up(self, late: Sequence[Entry]) -> None:
        error = DeadlineExceeded("the deadline passed while the call waited")
        self._deliver([(entry, error) for entry in late])

    def _deliver(self, settled: Sequence[Settlement]) -> None:
        if settled:
            self._call(settle, settled)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call something on the event loop, after what was told to it before (any thread)."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _ended(self, device: DeviceThread, error: BaseException | None) -> None:
        if error is None:
            return
        name = type(error).__name__
        self._lose(device, error if isinstance(error, DeviceLost) else DeviceLost(f"the device thread died: {name}"))

    def _lose(self, device: DeviceThread, error: DeviceLost) -> None:
        """Refuse whatever comes, and fail whatever waits: only a new process can help (any thread)."""
        _log.critical("device %s is lost: %s", device.state.name, error)
        device.lost = True
        with self._changed:
            self._lost = error
            self._notice_leaving()
            self._changed.notify_all()
            self._freed.notify_all()
        self._call(self._mourn, error)

    def _mourn(self, error: DeviceLost) -> None:
        self._dead.set()
        self.abandon(error)
