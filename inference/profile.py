"""What a loaded model can do on its device: batches nobody asked for, measured and predicted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from inference.config import Limits
from inference.cost import Curve
from inference.errors import InferenceError, OutOfMemory
from inference.lane import Lane
from inference.request import Batch, Call, Entry, Output, Request, Result, Shape
from inference.runtime import Runtime

_LENGTHS: Final = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What texts of one length run at, in batches that keep the time cap."""

    length: int  # tokens
    sequences: int  # in a batch
    batch_s: float
    texts_per_s: float


@dataclass(frozen=True, slots=True)
class Profile:
    """A model's cost on its device, how well it is known, and the capacity that follows."""

    model: str
    curve: Curve
    max_batch_tokens: int  # of this device
    error_p50: float  # of predicted seconds, relative, over batches not learned from
    error_p95: float
    capacities: tuple[Capacity, ...]


class _Nobody:
    """The reply of a rehearsal."""

    def succeed(self, result: Result) -> None:
        pass

    def fail(self, error: InferenceError) -> None:
        pass


def rehearse(model: str, output: Output, lengths: Sequence[int], shape: Shape, runtime: Runtime) -> float:
    """Run a batch that nobody asked for, and return its seconds."""
    requests = [Request(model, np.ones(length, np.int32), output=output) for length in lengths]
    call = Call(requests, deadline=float("inf"))
    batch = Batch(model, tuple(Entry(request, call, _Nobody(), 0.0) for request in requests), shape, 0.0)
    started = time.perf_counter()
    launched = runtime.launch(batch)
    launched.wait()
    return time.perf_counter() - started if launched.busy_s is None else launched.busy_s


def teach(model: str, output: Output, lengths: Sequence[int], runtime: Runtime, lane: Lane) -> None:
    """
    Rehearse a batch twice: the first pays for caches, the second teaches the cost model.

    What does not fit the device is halved until it does; raises OutOfMemory for a single text.
    """
    while not _taught(model, output, lengths, runtime, lane):
        lane.did_not_fit(lane.shape(lengths))
        lengths = lengths[: len(lengths) // 2]


def _taught(model: str, output: Output, lengths: Sequence[int], runtime: Runtime, lane: Lane) -> bool:
    shape = lane.shape(lengths)
    try:
        rehearse(model, output, lengths, shape, runtime)
        lane.cost.observe(shape, rehearse(model, output, lengths, shape, runtime))
    except OutOfMemory:
        if len(lengths) == 1:
            raise
        return False  # tried again by the caller, where no traceback holds on to tensors
    return True


def measure(
    model: str, output: Output, runtime: Runtime, lane: Lane, limits: Limits, *, max_length: int, rounds: int
) -> Profile:
    """Predict and run batches of random lengths, then learn from them: error first, curve after."""
    random = np.random.default_rng(0)
    errors = []
    for _ in range(rounds):
        count = int(random.integers(1, 17))
        lengths = np.clip(random.lognormal(np.log(40), 0.9, count), 2, max_length).astype(int).tolist()
        shape = lane.shape(lengths)
        predicted_s, seconds = lane.cost.seconds(shape), rehearse(model, output, lengths, shape, runtime)
        errors.append(abs(seconds / predicted_s - 1.0))
        lane.cost.observe(shape, seconds)
    p50, p95 = np.percentile(errors, [50, 95])
    usable = [length for length in _LENGTHS if length <= max_length]
    capacities = tuple(_capacity(lane, length, limits.max_batch_s) for length in usable)
    return Profile(model, lane.cost.curve, limits.max_batch_tokens, float(p50), float(p95), capacities)


def _capacity(lane: Lane, length: int, max_batch_s: float) -> Capacity:
    sequences = 1
    while lane.cost.seconds(lane.shape([length] * (sequences + 1))) <= max_batch_s and sequences < 4096:  # noqa: PLR2004
        sequences += 1
    batch_s = lane.cost.seconds(lane.shape([length] * sequences))
    return Capacity(length, sequences, batch_s, sequences / batch_s)
