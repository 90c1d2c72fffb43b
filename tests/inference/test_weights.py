import shutil
from pathlib import Path

import pytest
import torch

from inference.checkpoint import read_checkpoint
from inference.device import Device
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
