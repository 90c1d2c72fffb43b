"""Stand-ins at the seams: runtimes, a clock, a reply. Nothing else in the tests is fake."""

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from inference.errors import InferenceError
from inference.request import Batch, Call, Entry, Reply, Request, Result, Row, RowFailed
from inference.runtime import Runtime


class FakeClock:
    """Time that moves when a test says so."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Recorded:
    """A reply that remembers every delivery, so that a second one shows."""

    def __init__(self) -> None:
        self.deliveries: list[Result | InferenceError] = []

    def succeed(self, result: Result) -> None:
        self.deliveries.append(result)

    def fail(self, error: InferenceError) -> None:
        self.deliveries.append(error)


class Answer:
    """A batch that is already computed."""

    busy_s: float | None = None

    def __init__(self, rows: Sequence[Row | RowFailed]) -> None:
        self._rows = rows

    def wait(self) -> Sequence[Row | RowFailed]:
        return self._rows


class EchoRuntime:
    """Answers each entry with its own first token id, at once."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def launch(self, batch: Batch) -> Answer:
        self.batches.append(batch)
        return Answer([entry.request.tokens[:1].astype(np.float32) for entry in batch.entries])


class GatedRuntime(EchoRuntime):
    """Holds every batch until the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()

    def launch(self, batch: Batch) -> Answer:
        answer = super().launch(batch)
        self.entered.set()
        assert self.gate.wait(30), "nobody opened the gate"
        return answer


class ScriptedRuntime(EchoRuntime):
    """Does what a function says, and echoes where it returns None."""

    def __init__(self, script: Callable[[Batch], Sequence[Row | RowFailed] | None]) -> None:
        super().__init__()
        self._script = script

    def launch(self, batch: Batch) -> Answer:
        echo = super().launch(batch)
        told = self._script(batch)
        return echo if told is None else Answer(told)


Outcomes = Sequence[Row | RowFailed]
Launch = Callable[[Batch], Outcomes]


class Counted:
    """A reply that counts how often it is told something, and passes it on."""

    def __init__(self, reply: Reply) -> None:
        self.times = 0
        self._reply = reply

    def succeed(self, result: Result) -> None:
        self.times += 1
        self._reply.succeed(result)

    def fail(self, error: InferenceError) -> None:
        self.times += 1
        self._reply.fail(error)


class Faulty:
    """A runtime whose batches go through a fault on their way; it counts what is told to its entries."""

    def __init__(self, runtime: Runtime, fault: Callable[[Batch, Launch], Outcomes]) -> None:
        self.batches: list[Batch] = []
        self.replies: dict[Entry, Counted] = {}
        self._runtime = runtime
        self._fault = fault

    def launch(self, batch: Batch) -> Answer:
        self.batches.append(batch)
        for entry in batch.entries:
            if entry not in self.replies:
                entry.reply = self.replies[entry] = Counted(entry.reply)
        return Answer(self._fault(batch, lambda batch: self._runtime.launch(batch).wait()))


_numbers = itertools.count(1000)


def request(tokens: int = 8, *, model: str = "m", first: int | None = None) -> Request:
    """One input of so many tokens, like no other; EchoRuntime answers with `first`."""
    number = next(_numbers)
    ids = np.full(tokens, number, np.int32)
    ids[0] = number if first is None else first
    return Request(model, ids)


def call(*requests: Request, deadline: float = 1e9, caller: str = "", priority: int = 0) -> Call:
    """One call, with a deadline that never comes."""
    return Call(requests or (request(),), deadline, caller, priority)


def entries(
    *tokens: int,
    model: str = "m",
    arrived: float = 0.0,
    deadline: float | None = None,
    caller: str = "",
    priority: int = 0,
) -> list[Entry]:
    """The entries of one call, one for each number of tokens; its deadline is far, and later if it arrived later."""
    requests = [request(count, model=model) for count in tokens]
    owner = Call(requests, arrived + 1e6 if deadline is None else deadline, caller, priority)
    return [Entry(item, owner, Recorded(), arrived) for item in requests]


def entry(tokens: int = 8, **options: Any) -> Entry:
    """A call of one entry, with the options of `entries`."""
    return entries(tokens, **options)[0]
