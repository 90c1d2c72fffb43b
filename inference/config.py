"""The engine's settings as frozen groups, with their defaults. Whoever parses flags starts here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

from inference.task import Task

DType = Literal["auto", "float32", "float16", "bfloat16"]
Told = TypeVar("Told")
Told_co = TypeVar("Told_co", covariant=True)


def default_cache_dir() -> Path:
    """Where fetched models are kept, outside any repository."""
    return Path.home() / ".cache" / "headrace"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from: a folder, or a hub id with its commit. `name` is what callers say."""

    name: str
    location: str
    revision: str | None = None
    task: Task | None = None  # None: as its own files say


@dataclass(frozen=True, slots=True)
class ForModel(Generic[Told_co]):
    """What is told about one served model; `model` None: about the only one."""

    model: str | None
    value: Told_co


def told_for(model: str, all_told: Sequence[ForModel[Told]]) -> Told | None:
    """Return what is told about this model, or None."""
    return next((told.value for told in all_told if told.model in (None, model)), None)


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """Where models run: `auto`, or places of one kind (`cpu`, `cuda`, `cuda:1`); 0 threads: torch chooses."""

    devices: tuple[str, ...] = ("auto",)
    dtype: DType = "auto"
    threads: int = 0  # of all devices together


@dataclass(frozen=True, slots=True)
class Limits:
    """What may wait and what may run together, in tokens. A budget of 0 means the device's default."""

    max_batch_tokens: int = 0
    max_waiting_tokens: int = 1_048_576
    latency_target_s: float = 0.1
    batch_share: float = 0.5  # of the latency target, for a batch's own time: a call may have to wait for another
    max_answer_bytes: int = 64 * 1024 * 1024  # of numbers in the answer to one call
    max_items: int = 2048  # inputs in one call, OpenAI's own limit
    window: int = 1024  # waiting entries looked at when a batch is formed: more than one batch of short texts
    quarantine_s: float = 30.0  # an input that fails the model is not tried again so soon
    cache_bytes: int = 0  # of finished answers; 0: none are kept
    stuck_after_s: float = 60.0  # a batch that runs so long, and 10 x its prediction, is stuck: the device is lost

    @property
    def max_batch_s(self) -> float:
        """How long a batch may take, but for a single input."""
        return self.batch_share * self.latency_target_s


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """How models may change at run time: only where it is `explicit`; from `--model` sources and folders in `root`."""

    mode: Literal["none", "explicit"] = "none"
    root: Path | None = None
    memory_bytes: int = 0  # that all weights may take of each GPU's memory, or of the CPU's; 0: what is free


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """All that an engine needs to know."""

    models: tuple[ModelSource, ...] = ()  # empty: the built-in default model
    tasks: tuple[ForModel[Task], ...] = ()  # instead of what a model's own files say
    goldens: tuple[ForModel[Path], ...] = ()  # files of answers that a model must give before it is served
    device: DeviceConfig = DeviceConfig()
    limits: Limits = Limits()
    control: ControlConfig = ControlConfig()
    cache_dir: Path = field(default_factory=default_cache_dir)
    auto_truncate: bool = False
