"""One device: which it is, what it is good for, and the edge behind which torch's errors stay."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from inference.checkpoint import Checkpoint
from inference.config import DeviceConfig
from inference.errors import CannotServe, DeviceLost, InferenceError, OutOfMemory, RuntimeFailed

# On a CPU more tokens a batch only add latency: packed groups of 8 and of 32 texts cost the same a text.
_BATCH_TOKENS: Final = {"cpu": 1024, "cuda": 16384}


@dataclass(frozen=True, slots=True)
class Device:
    """A place where models run."""

    place: torch.device

    @property
    def name(self) -> str:
        """`cpu`, `cuda:0`, ..."""
        return str(self.place)

    @property
    def batch_tokens(self) -> int:
        """The token budget of a batch where the settings leave it open."""
        return _BATCH_TOKENS[self.place.type]


def open_device(config: DeviceConfig) -> Device:
    """Find the device that the settings ask for; raises CannotServe."""
    if config.threads:
        torch.set_num_threads(config.threads)
    wanted = config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return Device(torch.device("cpu"))
    place = torch.device(wanted)
    if not torch.cuda.is_available() or (place.index or 0) >= torch.cuda.device_count():
        raise CannotServe(f"device {wanted}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices")
    return Device(torch.device("cuda", place.index or 0))


def choose_dtype(config: DeviceConfig, device: Device, checkpoint: Checkpoint) -> torch.dtype:
    """Pick the dtype: as told; else float32 on a CPU, on CUDA bfloat16 for models saved in it, else float16."""
    if config.dtype != "auto":
        dtype: torch.dtype = getattr(torch, config.dtype)
        return dtype
    if device.place.type == "cpu":
        return torch.float32
    return torch.bfloat16 if checkpoint.saved_dtype == "bfloat16" else torch.float16


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
