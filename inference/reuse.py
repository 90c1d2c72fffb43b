"""
Same work once: identical inputs in flight share one computation, and finished answers may be kept.

Keyed by caller too, so that nobody learns from a fast answer what others asked. An input that fails the
model twice by itself is not tried again for a while. Lives on the event loop alone.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from inference.errors import InferenceError, OutOfMemory, RuntimeFailed
from inference.reply import Pending, Slot
from inference.request import Call, Entry, Request, Result, Timings

_BOOKKEEPING_BYTES: Final = 300  # of a kept answer, beside its numbers
_MOST_FAILURES: Final = 10_000  # inputs that are remembered
_TIMES_TO_QUARANTINE: Final = 2  # once may have been the device

Key = tuple[str, bytes]
"""Caller, and a digest of the input."""


def digest(request: Request) -> bytes:
    """Return 128 bits that name an input of a model (BLAKE2b)."""
    asked = f"{len(request.model)} {request.model} {request.output} {len(request.tokens)} ".encode()
    types = b"" if request.types is None else request.types.tobytes()
    return hashlib.blake2b(asked + request.tokens.tobytes() + types, digest_size=16).digest()


@dataclass(eq=False, slots=True)
class Flight:
    """One computation that several calls may wait for: implements Reply."""

    key: Key
    request: Request
    reuse: "Reuse"
    entry: Entry | None = None  # while it is under way
    slots: set[Slot] = field(default_factory=set)

    def succeed(self, result: Result) -> None:
        """Deliver to all who wait."""
        self.reuse.landed(self, result)
        for slot in self.slots:
            slot.succeed(result)

    def fail(self, error: InferenceError) -> None:
        """Fail all who wait."""
        self.reuse.failed(self, error)
        for slot in self.slots:
            slot.fail(error)

    def serves(self, call: Call) -> bool:
        """Whether its entry is at least as urgent as the call."""
        entry = self.entry
        return entry is not None and entry.call.priority >= call.priority and entry.deadline <= call.deadline

    def board(self, slot: Slot, deadline: float) -> None:
        """Let one more wait; the entry is not given up before the last of them would give up."""
        self.slots.add(slot)
        if self.entry is not None:
            self.entry.deadline = max(self.entry.deadline, deadline)


@dataclass(frozen=True, slots=True)
class _Failure:
    """How often an input failed by itself, and until when that counts."""

    times: int
    until: float


@dataclass(frozen=True, slots=True)
class ReuseStatistics:
    """What needed no work of its own."""

    joined: int  # inputs that shared the computation of another
    kept: int  # inputs answered from kept answers
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a call's requests are answered: by kept results, by flights of others, by flights of its own."""

    kept: list[tuple[Slot, Result]]
    seats: list[tuple[Flight, Slot]]  # in flights of others and of its own
    fresh: list[Flight]  # its own, each to be admitted

    def joined(self) -> list[Entry]:
        """Return the entries of others' flights that it shares; to be asked before it begins."""
        return [flight.entry for flight, _ in self.seats if flight.entry is not None]


class Reuse:
    """What is in flight, what is kept, and what is not tried again."""

    def __init__(self, cache_bytes: int, quarantine_s: float, clock: Callable[[], float]) -> None:
        """Take how many bytes of answers to keep, and how long an input that failed is not tried again."""
        self._cache_bytes = cache_bytes
        self._quarantine_s = quarantine_s
        self._clock = clock
        self._flights: dict[Key, Flight] = {}
        self._kept: OrderedDict[Key, Result] = OrderedDict()
        self._kept_bytes = 0
        self._failures: OrderedDict[Key, _Failure] = OrderedDict()
        self._joined = self._answered = 0

    def keys(self, call: Call) -> list[Key]:
        """Name each input of a call; raises RuntimeFailed for one in quarantine."""
        keys = [(call.caller, digest(request)) for request in call.requests]
        for key in keys:
            self._refuse_poison(key)
        return keys

    def plan(self, call: Call, keys: Sequence[Key], pending: Pending, holds: Callable[[Entry], bool]) -> Plan:
        """Sort a call's requests; changes nothing. Only flights whose entry is still held are joined."""
        plan = Plan([], [], [])
        own: dict[Key, Flight] = {}
        for index, (key, request) in enumerate(zip(keys, call.requests, strict=True)):
            slot = Slot(pending, index)
            if key in self._kept:
                plan.kept.append((slot, self._kept[key]))
                continue
            flight = own.get(key) or self._joinable(key, call, holds)
            if flight is None:
                flight = own[key] = Flight(key, request, self)
                plan.fresh.append(flight)
            plan.seats.append((flight, slot))
        return plan

    def begin(self, plan: Plan, entries: Sequence[Entry], deadline: float) -> None:
        """Carry a plan out, once the entries of its fresh flights have been admitted."""
        for flight, entry in zip(plan.fresh, entries, strict=True):
            flight.entry = entry
            self._flights[flight.key] = flight
        self._joined += len(plan.seats) - len(plan.fresh)
        self._answered += len(plan.kept)
        for flight, slot in plan.seats:
            flight.board(slot, deadline)
        for slot, result in plan.kept:
            slot.succeed(result)

    def end(self, plan: Plan) -> list[Entry]:
        """Stop waiting; returns the entries under way that nobody waits for any more."""
        for flight, slot in plan.seats:
            flight.slots.discard(slot)
        empty = {flight for flight, _ in plan.seats if not flight.slots}
        for flight in empty:
            self._close(flight)
        return [flight.entry for flight in empty if flight.entry is not None]

    def statistics(self) -> ReuseStatistics:
        """Take a snapshot."""
        return ReuseStatistics(self._joined, self._answered, self._kept_bytes)

    def landed(self, flight: Flight, result: Result) -> None:
        """Close a flight, and keep its answer while there is room."""
        self._land(flight)
        size = result.row.nbytes + _BOOKKEEPING_BYTES
        if size > self._cache_bytes or flight.key in self._kept:
            return
        self._kept[flight.key] = Result(result.row.copy(), Timings(0.0, 0.0))  # a row is a view of its whole batch
        self._kept_bytes += size
        while self._kept_bytes > self._cache_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.row.nbytes + _BOOKKEEPING_BYTES

    def failed(self, flight: Flight, error: InferenceError) -> None:
        """Close a flight; an input that fails the model twice, by itself, goes into quarantine."""
        self._land(flight)
        if not isinstance(error, RuntimeFailed) or isinstance(error, OutOfMemory):
            return  # no fault of the input, or one that less company may cure
        before = self._failures.pop(flight.key, None)
        times = 1 + (before.times if before and before.until > self._clock() else 0)
        self._failures[flight.key] = _Failure(times, self._clock() + self._quarantine_s)
        if len(self._failures) > _MOST_FAILURES:
            self._failures.popitem(last=False)

    def _joinable(self, key: Key, call: Call, holds: Callable[[Entry], bool]) -> Flight | None:
        flight = self._flights.get(key)
        if flight is None or flight.entry is None or not holds(flight.entry):
            return None
        return flight if flight.serves(call) else None

    def _refuse_poison(self, key: Key) -> None:
        failure = self._failures.get(key)
        if failure is None:
            return
        if failure.until <= self._clock():
            del self._failures[key]
        elif failure.times >= _TIMES_TO_QUARANTINE:
            raise RuntimeFailed("this input failed the model again and again, a moment ago")

    def _land(self, flight: Flight) -> None:
        self._close(flight)
        flight.entry = None

    def _close(self, flight: Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
