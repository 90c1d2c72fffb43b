"""All models: load, warm up, submit, report, drain, close. The only place where the parts are joined."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from inference.batcher import Batcher, BatcherStatistics, Observer
from inference.card import Loaded
from inference.checkpoint import Checkpoint, open_checkpoints
from inference.config import EngineConfig, told_for
from inference.cost import CostModel
from inference.device import Device, choose_dtype, open_device
from inference.encoder import Encoder, load_encoder
from inference.errors import CannotServe, DeviceLost, RuntimeFailed, Unavailable
from inference.footprint import peak_bytes, resident_bytes
from inference.golden import check, read_golden
from inference.judge import question
from inference.lane import Lane
from inference.model import ServedModel
from inference.profile import Profile, measure, rehearse, teach
from inference.request import Call, Request, Result, Row
from inference.scheduler import Refused, Scheduler, Work
from inference.task import abilities
from inference.tokenizer import Text, TextTokenizer, read_vocabulary

_log = logging.getLogger(__name__)

_FOOTPRINT_LENGTH: Final = 128  # tokens a text
_FOOTPRINT_TOKENS: Final = 1024  # a batch, about
_UNSET_MAX_LENGTH: Final = 1_000_000  # transformers says 1e30 where a tokenizer has no limit


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a start has come."""

    model: str
    stage: str  # `load` or `warm up`
    done: int
    total: int


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
        self.models: Mapping[str, ServedModel] = {}
        self._config = config
        self._clock = clock
        self._observer = observer
        self._progress = progress
        self._batcher: Batcher | None = None
        self._limits = config.limits  # once loaded, with the device's own where they were left open
        self._measurable: Mapping[str, tuple[Encoder, Lane]] = {}

    def load(self) -> None:
        """Fetch, check, load and warm up every model (blocking); raises CannotServe."""
        device = open_device(self._config.device)
        limits = self._config.limits
        limits = replace(limits, max_batch_tokens=limits.max_batch_tokens or device.batch_tokens)
        models, runtimes, lanes = {}, {}, {}
        for checkpoint in open_checkpoints(self._config):
            name = checkpoint.name
            try:
                models[name], runtimes[name], lanes[name] = self._load(checkpoint, device, limits.max_batch_tokens)
            except (RuntimeFailed, DeviceLost) as err:
                raise CannotServe(f"model {name} fails on {device.name}: {err}") from err
        self._batcher = Batcher(
            Scheduler(limits, lanes), {device.name: runtimes}, limits, clock=self._clock, observer=self._observer
        )
        self._limits = limits
        self._measurable = {name: (runtimes[name], lanes[name]) for name in models}
        self.models = models

    def profile(self, rounds: int = 60) -> list[Profile]:
        """Measure every loaded model on its device (blocking; instead of `start`, not beside it)."""
        return [
            measure(
                name,
                runtime.output,
                runtime,
                lane,
                self._limits,
                max_length=self.models[name].max_length,
                rounds=rounds,
            )
            for name, (runtime, lane) in self._measurable.items()
        ]

    def answers(self, model: str, inputs: Sequence[Text]) -> list[Row]:
        """
        Return a loaded model's main output for texts and pairs, each run alone (blocking; instead of `start`).

        Raises CannotServe for an input that it cannot read, and what a runtime raises.
        """
        return _answers(self.models[model], self._measurable[model][0], inputs)

    def inspect(self, model: str) -> Loaded:
        """Say what a model turned out to be, and measure its memory (blocking; instead of `start`)."""
        encoder, lane = self._measurable[model]
        served = self.models[model]
        process_bytes = resident_bytes()
        length = min(_FOOTPRINT_LENGTH, served.max_length)
        lengths = [length] * (_FOOTPRINT_TOKENS // length)
        batch_bytes = peak_bytes(
            lambda: rehearse(model, encoder.output, lengths, lane.shape(lengths), encoder), served.device
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

    def _load(self, checkpoint: Checkpoint, device: Device, budget: int) -> tuple[ServedModel, Encoder, Lane]:
        told = told_for(checkpoint.name, self._config.goldens)
        golden = None if told is None else read_golden(told)
        self._progress(Progress(checkpoint.name, "load", 0, 1))
        started = self._clock()
        tokenizer = checkpoint.tokenizer()
        vocabulary = read_vocabulary(tokenizer)
        dtype = choose_dtype(self._config.device, device, checkpoint)
        encoder = load_encoder(checkpoint, device, dtype, vocabulary)
        if vocabulary.highest >= encoder.vocab_size:
            raise CannotServe(f"model {checkpoint.name}: its tokenizer has ids that its weights do not know")
        self._progress(Progress(checkpoint.name, "load", 1, 1))
        loaded = self._clock()
        lane = Lane(encoder.packed, CostModel())
        self._warm_up(checkpoint.name, encoder, lane, budget)
        served = ServedModel(
            name=checkpoint.name,
            task=checkpoint.task,
            abilities=abilities(checkpoint.task, checkpoint.labels),
            revision=checkpoint.revision,
            dtype=str(dtype).removeprefix("torch."),
            device=device.name,
            packed=encoder.packed,
            hidden_size=encoder.hidden_size,
            vocab_size=encoder.vocab_size,
            max_length=min(encoder.max_length, tokenizer.max_length),
            normalised=checkpoint.normalise,
            tokenizer=tokenizer,
            load_s=loaded - started,
            warm_up_s=self._clock() - loaded,
            causal=checkpoint.causal,
            labels=checkpoint.labels,
            problem_type=checkpoint.problem_type,
            pooling=checkpoint.pooling,
            prompts=checkpoint.prompts,
            default_prompt=checkpoint.default_prompt,
            padded_because=encoder.padded_because,
        )
        if golden is not None:
            check(golden, served.name, served.task, _answers(served, encoder, golden.inputs))
        return served, encoder, lane

    def _warm_up(self, name: str, encoder: Encoder, lane: Lane, budget: int) -> None:
        """Run batches of many shapes, so that the cost is known before the first call."""
        plans = _warm_up_plans(encoder.max_length, budget)
        for done, lengths in enumerate(plans):
            self._progress(Progress(name, "warm up", done, len(plans)))
            teach(name, encoder.output, lengths, encoder, lane)
        lane.cost.settle()
        self._progress(Progress(name, "warm up", len(plans), len(plans)))


def _answers(served: ServedModel, encoder: Encoder, inputs: Sequence[Text]) -> list[Row]:
    """Run each input alone, so that none of them changes how another is summed up."""
    judges = served.causal and served.task == "rerank"
    texts = [question(*text) if judges and isinstance(text, tuple) else text for text in inputs]
    rows = []
    for number, piece in enumerate(TextTokenizer(served.tokenizer, served.max_length).encode(texts), start=1):
        if not 1 <= len(piece.ids) <= served.max_length:
            wanted = f"{len(piece.ids)} tokens, and it reads 1 to {served.max_length}"
            raise CannotServe(f"model {served.name}: case {number} has {wanted}")
        [row] = encoder.rows([Request(served.name, piece.ids, piece.types, encoder.output)])
        if row.size == 0:
            raise CannotServe(f"model {served.name}: case {number} asks for nothing: it holds no mask")
        rows.append(row)
    return rows


def _warm_up_plans(max_length: int, budget: int) -> list[list[int]]:
    """Lengths of the batches to rehearse: single texts, some, and a full budget, short and long."""
    lengths = sorted({min(length, max_length) for length in (4, 16, 64, 256, max_length)})
    plans = []
    for length in lengths:
        counts = sorted({1, min(4, budget // length), min(256, budget // length)} - {0})
        plans += [[length] * count for count in counts]
    return plans
