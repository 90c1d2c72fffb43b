"""Fixtures of the gateway's tests."""

import ctypes
import os
from pathlib import Path

import pytest

from tests.nvml import NAME, ORDERS, Orders, compiled


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the library."""
    return compiled(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Orders:
    """The library in this process: whoever loads it by its name gets what is loaded already."""
    ctypes.CDLL(str(nvml_library / NAME))
    orders = tmp_path / "orders"
    monkeypatch.setitem(os.environ, ORDERS, str(orders))
    return Orders(orders)
