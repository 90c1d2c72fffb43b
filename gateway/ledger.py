"""
What the calls of one dialect cost, by model, as Triton's statistics extension counts it: how often, and nanoseconds.

Knows no HTTP. Times are those of calls, not of inputs; the clock is passed in.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from inference import CallTimings

PARTS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class Total:
    """How often something happened, and seconds in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count it once more."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Account:
    """The calls of one model."""

    totals: dict[str, Total] = field(default_factory=lambda: {part: Total() for part in PARTS})
    last_ms: int = 0  # since 1970

    def told(self) -> dict[str, dict[str, int]]:
        """Return the totals as the extension has them."""
        return {part: {"count": each.count, "ns": round(each.seconds * 1e9)} for part, each in self.totals.items()}


@dataclass(slots=True)
class Call:
    """One call under way; without timings it has failed."""

    clock: Callable[[], float]
    timings: CallTimings | None = None
    answered: float = 0.0

    def answer(self, timings: CallTimings) -> None:
        """Note that the engine has answered; what follows is output."""
        self.timings, self.answered = timings, self.clock()


class Ledger:
    """An account for each model."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        """Take a clock, and the time of day; both in seconds."""
        self._clock = clock
        self._wall = wall
        self._accounts: dict[str, Account] = {}

    def account(self, model: str) -> Account:
        """Return the account of a model that is served."""
        return self._accounts.setdefault(model, Account())

    @contextmanager
    def call(self, model: str) -> Iterator[Call]:
        """Count one call to a model; it has failed if it raises, or never gets an answer."""
        started = self._clock()
        call, ended_well = Call(self._clock), False
        try:
            yield call
            ended_well = True
        finally:
            if not ended_well:
                call.timings = None
            self._count(self.account(model), call, started)

    def _count(self, account: Account, call: Call, started: float) -> None:
        now, totals = self._clock(), account.totals
        account.last_ms = round(self._wall() * 1000)
        if call.timings is None:
            totals["fail"].add(now - started)
            return
        totals["success"].add(now - started)
        totals["queue"].add(call.timings.queue_s)
        totals["compute_input"].add(call.timings.tokenise_s)
        totals["compute_infer"].add(call.timings.device_s)
        totals["compute_output"].add(now - call.answered)
