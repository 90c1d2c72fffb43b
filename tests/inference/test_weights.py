"""How weights are loaded: out of the way of models that run, and of what becomes of their file."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from inference.checkpoint import read_checkpoint
from inference.config import DeviceConfig
from inference.device import Device, open_devices
from inference.weights import load_weights


@pytest.mark.parametrize("content", [b"", b"\xff"], ids=["cut off", "written over"])
def test_weights_do_not_change_with_the_file_they_came_from(
    tiny_paths: dict[str, Path], tmp_path: Path, content: bytes
) -> None:
    folder = shutil.copytree(tiny_paths["bert"], tmp_path / "bert")
    model = load_weights(read_checkpoint("bert", folder), Device(torch.device("cpu")), torch.float32)
    before = [weight.double().sum().item() for weight in model.parameters()]
    weights = folder / "model.safetensors"

    with weights.open("r+b") as file:
        file.truncate(len(content) * weights.stat().st_size)
        file.write(content * weights.stat().st_size)

    assert [weight.double().sum().item() for weight in model.parameters()] == before


@pytest.mark.parametrize(("dtype", "alone"), [(torch.float32, 0), (torch.bfloat16, 1)])
def test_a_dtype_that_becomes_the_default_of_all_threads_is_loaded_alone(
    tiny_paths: dict[str, Path], dtype: torch.dtype, alone: int
) -> None:
    entered: list[torch.dtype] = []

    @contextmanager
    def nothing_else_runs() -> Iterator[None]:
        entered.append(torch.get_default_dtype())
        yield
        entered.append(torch.get_default_dtype())

    [device] = open_devices(DeviceConfig(("cpu",)))
    load_weights(read_checkpoint("bert", tiny_paths["bert"]), device, dtype, nothing_else_runs)

    assert entered == [torch.float32] * 2 * alone
