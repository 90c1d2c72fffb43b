"""The real server beside a driver that works, hangs or is not wanted."""

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.e2e.conftest import Headrace
from tests.nvml import ORDERS, Orders, compiled
from tests.tiny import save_tiny

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Orders:
    """A driver for the processes that this test starts."""
    (tmp_path / "nvml").mkdir()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(compiled(tmp_path / "nvml")))
    monkeypatch.setenv(ORDERS, str(tmp_path / "orders"))
    return Orders(tmp_path / "orders")


def page(server: Headrace) -> str:
    return httpx2.get(server.metrics, timeout=5.0).text


def answered(server: Headrace) -> int:
    return httpx2.post(f"{server.url}/v1/embeddings", json={"input": "w9"}, timeout=5.0).status_code


def test_a_driver_that_hangs_harms_neither_calls_nor_scrapes(
    start: Callable[..., Headrace], nvml: Orders, tmp_path: Path
) -> None:
    server = start("--model", str(save_tiny("bert", tmp_path / "bert")), "--drain-delay", "0")
    server.until(lambda: 'headrace_gpu_power_watts{gpu="1"} 250.0' in page(server))
    before = answered(server)

    nvml.give("nvmlDeviceGetPowerUsage hang")
    server.until(lambda: "headrace_nvml_up 0.0" in page(server))
    during, told = answered(server), page(server)
    server.process.terminate()
    code = server.wait()

    assert [before, during] == [200, 200]
    assert "headrace_gpu" not in told
    assert code == 0


def test_gpus_are_left_alone_where_they_are_not_wanted(
    start: Callable[..., Headrace], nvml: Orders, tmp_path: Path
) -> None:
    server = start("--model", str(save_tiny("bert", tmp_path / "bert")), "--no-gpu-metrics")
    nvml.give("nvmlInitWithFlags hang")  # and it does not matter

    assert answered(server) == 200
    assert "nvml" not in page(server)
