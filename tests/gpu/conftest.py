"""Every test here needs a GPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inference.device import Device

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them, and skip them where torch sees none."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                # Neither CI nor most who develop have a GPU: HEADRACE_REQUIRE asks nothing of these.
                item.add_marker(pytest.mark.skip("needs CUDA"))


@pytest.fixture(scope="session")
def gpu() -> Device:
    return Device(torch.device("cuda", 0))


@pytest.fixture(autouse=True)
def fault_of_its_own() -> Iterator[None]:
    """Let a kernel's error fail the test that launched it, and not a later one."""
    yield
    torch.cuda.synchronize()
