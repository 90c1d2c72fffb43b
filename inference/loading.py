"""
One model, from its checkpoint to where it can take calls: loaded, warmed up, and true to its golden answers.

It may run beside models that serve: on a thread of its own, which shares the device with theirs.
"""

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from inference.card import weight_bytes
from inference.checkpoint import Checkpoint
from inference.config import EngineConfig
from inference.cost import CostModel
from inference.device import Device, choose_dtype, open_devices
from inference.encoder import Encoder, load_encoder
from inference.errors import CannotServe, DeviceLost, OutOfMemory, RuntimeFailed
from inference.footprint import free_bytes
from inference.golden import check, read_golden
from inference.judge import question
from inference.lane import Lane
from inference.model import ServedModel
from inference.profile import teach
from inference.request import Request, Row
from inference.task import abilities
from inference.tokenizer import Text, TextTokenizer, TokenizerFile, Vocabulary, read_vocabulary
from inference.weights import Alone

_log = logging.getLogger(__name__)

_FLOAT32_BYTES: Final = 4
_BESIDE_WEIGHTS: Final = 1.25  # what a load and its batches take, as a multiple of the weights


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a start has come."""

    model: str
    stage: str  # `load`, `record graphs` or `warm up`
    done: int
    total: int


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that is ready, and what runs it on each device."""

    served: ServedModel
    encoders: Mapping[str, Encoder]  # by the device's name; all answer alike
    lane: Lane

    @property
    def encoder(self) -> Encoder:
        """The one on the first device."""
        return next(iter(self.encoders.values()))


class Loader:
    """Loads models on the devices that the settings ask for."""

    def __init__(
        self, config: EngineConfig, *, clock: Callable[[], float] = time.monotonic, progress: Callable[[Progress], None]
    ) -> None:
        """Find the devices; raises CannotServe."""
        self.devices = open_devices(config.device)
        limits = config.limits
        self.limits = replace(limits, max_batch_tokens=limits.max_batch_tokens or self.devices[0].batch_tokens)
        self._places = {str(device.place) for device in self.devices}  # each with a memory of its own
        self._config = config
        self._clock = clock
        self._progress = progress

    def load(
        self, checkpoint: Checkpoint, golden: Path | None, *, version: int = 1, alone: Alone = nullcontext
    ) -> LoadedModel:
        """
        Load, warm up and compare with the golden answers in a file, on each device; raises CannotServe (blocking).

        `alone` keeps all other models from running meanwhile.
        """
        known = None if golden is None else read_golden(golden)
        try:
            loaded = self._load(checkpoint, version, alone)
            if known is not None:
                for encoder in loaded.encoders.values():
                    check(known, checkpoint.name, checkpoint.task, answers(loaded.served, encoder, known.inputs))
        except (RuntimeFailed, DeviceLost) as err:
            raise CannotServe(f"model {checkpoint.name} fails on {_names(self.devices)}: {err}") from err
        return loaded

    def needed_bytes(self, checkpoint: Checkpoint) -> int:
        """Return about how much of a memory a load takes until its model serves; raises CannotServe."""
        dtype = choose_dtype(self._config.device, self.devices[0], checkpoint)
        compared = _FLOAT32_BYTES if dtype != torch.float32 else 0  # with float32, one device after the other
        return round(_BESIDE_WEIGHTS * weight_bytes(checkpoint, self._replicas * dtype.itemsize + compared))

    def held_bytes(self, loaded: LoadedModel) -> int:
        """Return how much of a memory the weights of a model take, and on a GPU its graphs."""
        return self._replicas * (loaded.encoder.weight_bytes + loaded.encoder.graph_bytes)

    def free_bytes(self) -> int | None:
        """Return what may still be taken of every memory, if one tells."""
        told = [free for free in map(free_bytes, self._places) if free is not None]
        return min(told, default=None)

    @property
    def _replicas(self) -> int:
        """How many share a memory: there are as many in each."""
        return len(self.devices) // len(self._places)

    def _load(self, checkpoint: Checkpoint, version: int, alone: Alone) -> LoadedModel:
        started = self._clock()
        tokenizer = checkpoint.tokenizer()
        vocabulary = read_vocabulary(tokenizer)
        dtype = choose_dtype(self._config.device, self.devices[0], checkpoint)
        encoders = self._in_half(checkpoint, dtype, vocabulary, alone) if self._may_change(dtype) else None
        if encoders is None:
            dtype = torch.float32 if self._may_change(dtype) else dtype
            encoders = self._load_encoders(checkpoint, dtype, vocabulary, alone)
        encoder = next(iter(encoders.values()))
        if vocabulary.highest >= encoder.vocab_size:
            raise CannotServe(f"model {checkpoint.name}: its tokenizer has ids that its weights do not know")
        self._progress(Progress(checkpoint.name, "load", len(self.devices), len(self.devices)))
        loaded = self._clock()
        padded = [encoder for encoder in encoders.values() if not encoder.packed]
        for encoder in encoders.values():
            encoder.record_graphs(
                self.limits.max_batch_tokens,
                lambda done, total: self._progress(Progress(checkpoint.name, "record graphs", done, total)),
            )
        lane = Lane(not padded, CostModel())
        self._warm_up(checkpoint.name, list(encoders.values()), lane)
        served = replace(
            _served(checkpoint, [*padded, encoder][0], tokenizer),
            dtype=_name(dtype),
            device=_names(self.devices),
            load_s=loaded - started,
            warm_up_s=self._clock() - loaded,
            version=version,
        )
        return LoadedModel(served, encoders, lane)

    def _may_change(self, dtype: torch.dtype) -> bool:
        return dtype != torch.float32 and self._config.device.dtype == "auto"

    def _in_half(
        self, checkpoint: Checkpoint, dtype: torch.dtype, vocabulary: Vocabulary, alone: Alone
    ) -> dict[str, Encoder] | None:
        """Load in half precision; None: it cannot run so, or is too far off float32."""
        try:
            return self._load_encoders(checkpoint, dtype, vocabulary, alone)
        except OutOfMemory:
            raise
        except (CannotServe, RuntimeFailed) as err:
            _log.warning("model %s: in float32, since in %s it is not right: %s", checkpoint.name, _name(dtype), err)
            return None

    def _load_encoders(
        self, checkpoint: Checkpoint, dtype: torch.dtype, vocabulary: Vocabulary, alone: Alone
    ) -> dict[str, Encoder]:
        encoders: dict[str, Encoder] = {}
        for done, device in enumerate(self.devices):
            self._progress(Progress(checkpoint.name, "load", done, len(self.devices)))
            encoders[device.name] = load_encoder(checkpoint, device, dtype, vocabulary, alone=alone)
        return encoders

    def _warm_up(self, name: str, encoders: Sequence[Encoder], lane: Lane) -> None:
        """Run batches of many shapes on each device, so that the cost is known before the first call."""
        plans = _warm_up_plans(encoders[0].max_length, self.limits.max_batch_tokens)
        rehearsals = list(itertools.product(encoders, plans))
        for done, (encoder, lengths) in enumerate(rehearsals):
            self._progress(Progress(name, "warm up", done, len(rehearsals)))
            teach(name, encoder.output, lengths, encoder, lane)
        lane.cost.settle()
        self._progress(Progress(name, "warm up", len(rehearsals), len(rehearsals)))


def answers(served: ServedModel, encoder: Encoder, inputs: Sequence[Text]) -> list[Row]:
    """
    Return a model's main output for texts and pairs, each run alone, so that none changes how another is summed up.

    Raises CannotServe for an input that it cannot read, and what a runtime raises.
    """
    judges = served.causal and served.task == "rerank"
    texts = [question(*text) if judges and isinstance(text, tuple) else text for text in inputs]
    rows = []
    for number, piece in enumerate(TextTokenizer(served.tokenizer, served.max_length).encode(texts), start=1):
        if not 1 <= len(piece.ids) <= served.max_length:
            wanted = f"{len(piece.ids)} tokens, and it reads 1 to {served.max_length}"
            raise CannotServe(f"model {served.name}: case {number} has {wanted}")
        [row] = encoder.rows([Request(served.key, piece.ids, piece.types, encoder.output)])
        if row.size == 0:
            raise CannotServe(f"model {served.name}: case {number} asks for nothing: it holds no mask")
        rows.append(row)
    return rows


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _names(devices: Sequence[Device]) -> str:
    return ", ".join(device.name for device in devices)


def _served(checkpoint: Checkpoint, encoder: Encoder, tokenizer: TokenizerFile) -> ServedModel:
    return ServedModel(
        name=checkpoint.name,
        task=checkpoint.task,
        abilities=abilities(checkpoint.task, checkpoint.labels),
        revision=checkpoint.revision,
        dtype="",
        device="",
        packed=encoder.packed,
        hidden_size=encoder.hidden_size,
        vocab_size=encoder.vocab_size,
        max_length=min(encoder.max_length, tokenizer.max_length),
        normalised=checkpoint.normalise,
        tokenizer=tokenizer,
        causal=checkpoint.causal,
        labels=checkpoint.labels,
        problem_type=checkpoint.problem_type,
        pooling=checkpoint.pooling,
        prompts=checkpoint.prompts,
        default_prompt=checkpoint.default_prompt,
        padded_because=encoder.padded_because,
    )


def _warm_up_plans(max_length: int, budget: int) -> list[list[int]]:
    """Lengths of the batches to rehearse: single texts, some, and a full budget, short and long."""
    lengths = sorted({min(length, max_length) for length in (4, 16, 64, 256, max_length)})
    plans = []
    for length in lengths:
        counts = sorted({1, min(4, budget // length), min(256, budget // length)} - {0})
        plans += [[length] * count for count in counts]
    return plans
