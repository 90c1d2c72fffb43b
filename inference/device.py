"""One device: which it is, what it is good for, and the edge behind which torch's errors stay."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from inference.checkpoint import Checkpoint
from inference.config import DeviceConfig
from inference.errors import CannotServe, DeviceLost, InferenceError, OutOfMemory, RuntimeFailed

# On a CPU twice as many gain nothing more, and half as many cost 3 % (float32) to 10 % (bfloat16) of the answers.
_BATCH_TOKENS: Final = {"cpu": 2048, "cuda": 16384}
_IN_FLIGHT: Final = {"cpu": 1, "cuda": 2}  # one runs, and the next is launched before it ends


@dataclass(frozen=True, slots=True)
class Device:
    """A place where models run."""

    place: torch.device
    number: int | None = None  # of several in one place
    launching: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)  # one batch at a time

    @property
    def name(self) -> str:
        """`cpu`, `cuda:0`, ..., and `cpu:0`, `cpu:1` where the CPU is two devices."""
        return str(self.place) if self.number is None else f"{self.place}:{self.number}"

    @property
    def batch_tokens(self) -> int:
        """The token budget of a batch where the settings leave it open."""
        return _BATCH_TOKENS[self.place.type]

    @property
    def in_flight(self) -> int:
        """How many batches it may have at once."""
        return _IN_FLIGHT[self.place.type]


class Passage:
    """A batch's way through a GPU, which times it; on a CPU nothing is on its way, and nothing is timed."""

    def __init__(self, place: torch.device) -> None:
        """Begin when the device's stream has come so far."""
        self._on_gpu = place.type == "cuda"
        self.busy_s: float | None = None  # how long the device was at it, known after `wait`
        if self._on_gpu:
            self._stream = torch.cuda.current_stream(place)
            self._began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._ended = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
            self._began.record(self._stream)

    def fetch(self, values: torch.Tensor) -> torch.Tensor:
        """Copy values to the host, where they are after `wait`."""
        if not self._on_gpu:
            return values
        return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)

    def end(self) -> None:
        """Say that this was all of it."""
        if self._on_gpu:
            self._ended.record(self._stream)

    def wait(self) -> None:
        """Wait until the device has come to the end: asleep, without the interpreter's lock."""
        if self._on_gpu:
            self._ended.synchronize()
            self.busy_s = self._began.elapsed_time(self._ended) / 1000


def staging(size: int, place: torch.device) -> torch.Tensor:
    """Return memory of the host for so many int32, from which a device is told: pinned for a GPU, which torch keeps."""
    return torch.empty(size, dtype=torch.int32, pin_memory=place.type == "cuda")


def to_device(array: np.ndarray[Any, Any], place: torch.device) -> torch.Tensor:
    """Copy an array to a device without waiting for it; on a CPU it is shared."""
    host = torch.from_numpy(array)
    return host.pin_memory().to(place, non_blocking=True) if place.type == "cuda" else host


def open_devices(config: DeviceConfig) -> tuple[Device, ...]:
    """Find the devices that the settings ask for, and share the CPU's threads out; raises CannotServe."""
    places = [_place(wanted) for wanted in config.devices]
    gpus = [place for place in places if place.type != "cpu"]
    if len({place.type for place in places}) != 1 or len(set(gpus)) < len(gpus):
        raise CannotServe(f"devices {', '.join(config.devices)}: they must be of one kind, and each GPU once")
    for gpu in gpus:
        if not torch.cuda.is_available() or gpu.index >= torch.cuda.device_count():
            seen = torch.cuda.device_count()
            raise CannotServe(f"device {gpu}: torch {torch.__version__} sees {seen} CUDA devices")
    several_cpus = len(places) if len(places) > 1 and not gpus else 0
    if config.threads or several_cpus:  # threads that start later have as many
        torch.set_num_threads(max(1, (config.threads or torch.get_num_threads()) // max(1, several_cpus)))
    return tuple(Device(place, number if several_cpus else None) for number, place in enumerate(places))


def choose_dtype(config: DeviceConfig, device: Device, checkpoint: Checkpoint) -> torch.dtype:
    """Pick the dtype: as told; else float32 on a CPU, on CUDA bfloat16 for models saved in it, else float16."""
    if config.dtype != "auto":
        dtype: torch.dtype = getattr(torch, config.dtype)
        return dtype
    if device.place.type == "cpu":
        return torch.float32
    return torch.bfloat16 if checkpoint.saved_dtype == "bfloat16" else torch.float16


def _place(wanted: str) -> torch.device:
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(wanted)
    return place if place.type == "cpu" else torch.device(place.type, place.index or 0)


@contextlib.contextmanager
def model_edge() -> Iterator[None]:
    """Turn whatever a model or torch raises into this package's errors."""
    try:
        yield
    except InferenceError:
        raise
    except torch.OutOfMemoryError as err:
        raise OutOfMemory(str(err)) from err
    except torch.AcceleratorError as err:
        raise DeviceLost(str(err)) from err
    except Exception as err:  # the model is not our code
        raise RuntimeFailed(f"{type(err).__name__}: {err}") from err
