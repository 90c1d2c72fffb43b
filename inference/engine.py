"""All models: load, warm up, submit, report, drain, close. The only place where the parts are joined."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from inference.batcher import Batcher, BatcherStatistics, Observer
from inference.card import Loaded
from inference.checkpoint import Checkpoint, open_checkpoints, open_default, open_told
from inference.config import EngineConfig, ForModel, ModelSource, Told, told_for
from inference.errors import Unavailable
from inference.footprint import peak_bytes, resident_bytes
from inference.heap import give_back
from inference.loading import LoadedModel, Loader, Progress, answers
from inference.model import ServedModel
from inference.profile import Profile, measure, rehearse
from inference.request import Call, Result, Row
from inference.scheduler import Refused, Scheduler, Work
from inference.tokenizer import Text

_FOOTPRINT_LENGTH: Final = 128  # tokens a text
_FOOTPRINT_TOKENS: Final = 1024  # a batch, about


class Engine:
    """The models of this process, behind one scheduler."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer = lambda event: None,
        progress: Callable[[Progress], None] = lambda step: None,
    ) -> None:
        """Take the settings; nothing is touched before `load`."""
        self.models: dict[str, ServedModel] = {}  # by name; of two versions the later one
        self.config = config
        self._clock = clock
        self._observer = observer
        self._progress = progress
        self._loader: Loader | None = None
        self._batcher: Batcher | None = None
        self._loaded: dict[str, LoadedModel] = {}  # by `ServedModel.key`

    def load(self) -> None:
        """Fetch, check, load and warm up every model (blocking); raises CannotServe."""
        loader = Loader(self.config, clock=self._clock, progress=self._progress)
        checkpoints = open_checkpoints(self.config)
        goldens = _named(self.config.goldens, checkpoints[0].name)
        self.config = replace(self.config, goldens=goldens, tasks=_named(self.config.tasks, checkpoints[0].name))
        ready = [loader.load(checkpoint, told_for(checkpoint.name, goldens)) for checkpoint in checkpoints]
        self._batcher = Batcher(
            Scheduler(loader.limits, {loaded.served.key: loaded.lane for loaded in ready}, devices=len(loader.devices)),
            {
                device.name: {loaded.served.key: loaded.encoders[device.name] for loaded in ready}
                for device in loader.devices
            },
            loader.limits,
            clock=self._clock,
            observer=self._observer,
            in_flight=loader.devices[0].in_flight,
        )
        self._loader = loader
        self._loaded = {loaded.served.key: loaded for loaded in ready}
        self.models = {loaded.served.name: loaded.served for loaded in ready}

    def open(self, name: str, source: ModelSource | None) -> Checkpoint:
        """Fetch, check and read a model's files, None: the built-in default's (blocking); raises CannotServe."""
        return open_default(self.config) if source is None else open_told(replace(source, name=name), self.config)

    def prepare(self, checkpoint: Checkpoint, version: int) -> LoadedModel:
        """Make one more model ready beside those that serve (blocking, on any thread); raises CannotServe."""
        golden = told_for(checkpoint.name, self.config.goldens)
        return self._loading().load(checkpoint, golden, version=version, alone=self._running().held)

    def add(self, loaded: LoadedModel) -> None:
        """Take calls for a model that is ready."""
        self._running().add(loaded.served.key, loaded.lane, loaded.encoders)
        self._loaded[loaded.served.key] = loaded
        self.models[loaded.served.name] = loaded.served

    async def retire(self, key: str) -> None:
        """Wait until nothing of a model waits or runs, and give its memory back; nothing more may be sent to it."""
        await self._running().retire(key)
        going = [self._loaded.pop(key)]
        if self.models[going[0].served.name] is going[0].served:
            del self.models[going[0].served.name]
        await asyncio.to_thread(_let_go, going)

    def needed_bytes(self, checkpoint: Checkpoint) -> int:
        """Return about how much of a device's memory it takes to load a model; raises CannotServe."""
        return self._loading().needed_bytes(checkpoint)

    def free_bytes(self) -> int | None:
        """Return what more models may take of every device's memory, if that is known."""
        loader, budget = self._loading(), self.config.control.memory_bytes
        if budget:
            return budget - sum(map(loader.held_bytes, self._loaded.values()))
        free = loader.free_bytes()  # torch counts what graphs keep for themselves as free
        return None if free is None else free - sum(loaded.encoder.graph_bytes for loaded in self._loaded.values())

    def held_bytes(self, key: str) -> int:
        """Return what a loaded model's weights take of a device's memory."""
        return self._loading().held_bytes(self._loaded[key])

    def profile(self, rounds: int = 60) -> list[Profile]:
        """Measure every loaded model on the first device (blocking; instead of `start`, not beside it)."""
        limits = self._loading().limits
        return [
            measure(
                loaded.served.name,
                loaded.encoder.output,
                loaded.encoder,
                loaded.lane,
                limits,
                max_length=loaded.served.max_length,
                rounds=rounds,
            )
            for loaded in self._loaded.values()
        ]

    def answers(self, model: str, inputs: Sequence[Text]) -> list[Row]:
        """
        Return a loaded model's main output for texts and pairs, each run alone (blocking; instead of `start`).

        Raises CannotServe for an input that it cannot read, and what a runtime raises.
        """
        loaded = self._loaded[model]
        return answers(loaded.served, loaded.encoder, inputs)

    def inspect(self, model: str) -> Loaded:
        """Say what a model turned out to be, and measure its memory (blocking; instead of `start`)."""
        served, encoder, lane = (loaded := self._loaded[model]).served, loaded.encoder, loaded.lane
        process_bytes = resident_bytes()
        length = min(_FOOTPRINT_LENGTH, served.max_length)
        lengths = [length] * (_FOOTPRINT_TOKENS // length)
        batch_bytes = peak_bytes(
            lambda: rehearse(model, encoder.output, lengths, lane.shape(lengths), encoder),
            self._loading().devices[0].name,
        )
        return Loaded(
            packed=served.packed,
            padded_because=served.padded_because,
            dtype=served.dtype,
            device=served.device,
            hidden_size=served.hidden_size,
            max_length=served.max_length,
            load_s=served.load_s,
            warm_up_s=served.warm_up_s,
            weight_bytes=encoder.weight_bytes,
            process_bytes=process_bytes,
            bytes_per_token=batch_bytes / sum(lengths),
        )

    def start(self) -> None:
        """Begin to serve, on the running event loop."""
        self._running().start()

    async def submit(self, call: Call) -> Sequence[Result]:
        """Run a call: all of its requests or none; raises InferenceError."""
        return await self._running().submit(call)

    def refusal(self, work: Work) -> Refused | None:
        """Say why such a call would be refused now, or None."""
        return self._running().refusal(work)

    @property
    def healthy(self) -> bool:
        """Whether every device thread is alive and moving; true before `load` has ended."""
        return self._batcher is None or self._batcher.healthy

    def statistics(self) -> BatcherStatistics | None:
        """Take a snapshot; None before `load` has ended."""
        return None if self._batcher is None else self._batcher.statistics()

    async def lost(self) -> None:
        """Wait until a device is lost: nothing runs then until the process is replaced."""
        await self._running().lost()

    async def drained(self) -> None:
        """Wait until every admitted call is answered."""
        if self._batcher is not None:
            await self._batcher.drained()

    def abandon(self) -> int:
        """Fail every call that is not answered yet; returns how many."""
        if self._batcher is None:
            return 0
        self._batcher.close()  # what comes later is refused, not forgotten
        return self._batcher.abandon(Unavailable("shutting down"))

    def close(self, timeout_s: float = 5.0) -> None:
        """Refuse new calls and stop the device threads (blocking)."""
        if self._batcher is not None:
            self._batcher.close()
            self._batcher.join(timeout_s)

    def _running(self) -> Batcher:
        if self._batcher is None:
            raise RuntimeError("the engine is not loaded. This is a bug.")
        return self._batcher

    def _loading(self) -> Loader:
        if self._loader is None:
            raise RuntimeError("the engine is not loaded. This is a bug.")
        return self._loader


def _let_go(going: list[LoadedModel]) -> None:
    """Drop the last hold on models: to unmap large ones takes long."""
    going.clear()
    give_back()


def _named(all_told: Sequence[ForModel[Told]], only: str) -> tuple[ForModel[Told], ...]:
    """Name the model that was meant as the only one: others may come."""
    return tuple(ForModel(told.model or only, told.value) for told in all_told)
