"""What a GPU does to a process that goes wrong, provoked, and where it goes."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gateway.nvml import Driver
from inference.batcher import Batcher
from inference.checkpoint import read_checkpoint
from inference.config import DeviceConfig, EngineConfig, Limits, ModelSource
from inference.cost import CostModel
from inference.device import Device, Passage
from inference.encoder import load_encoder
from inference.engine import Engine
from inference.errors import DeviceLost
from inference.lane import Lane
from inference.request import Batch, Report, Request, Row
from inference.scheduler import Scheduler
from tests.fakes import Answer, EchoRuntime, call
from tests.gpu.large import save_bert
from tests.inference.test_encoder import mixture

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"), width=384, layers=6)


async def test_a_batch_that_does_not_fit_is_halved_and_answered(bert: Path, gpu: Device) -> None:
    encoder = load_encoder(read_checkpoint("m", bert), gpu, torch.float16)
    sequences = mixture(0, 512, 1000, 400)
    expected = encoder.rows([Request("m", tokens) for tokens in sequences])
    lane, reports = Lane(True, CostModel()), list[Report]()
    limits = Limits(max_batch_tokens=1 << 17, latency_target_s=1e3)
    batcher = Batcher(
        Scheduler(limits, {"m": lane}),
        {"cuda:0": {"m": encoder}},
        limits,
        clock=time.monotonic,
        observer=lambda event: reports.append(event) if isinstance(event, Report) else None,
        in_flight=2,
    )
    batcher.start()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(gpu.place).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(gpu.place) + (250 << 20)) / total)
    try:
        results = await batcher.submit(
            call(*(Request("m", tokens) for tokens in sequences), deadline=time.monotonic() + 60)
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        batcher.close()

    assert any(report.error == "OutOfMemory" for report in reports)
    assert lane.fits < sum(map(len, sequences))
    assert max(np.abs(result.row - row).max() for result, row in zip(results, expected, strict=True)) < 5e-3


def test_a_lost_device_is_known_for_what_it_is(bert: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.gpu.lose", str(bert)], capture_output=True, text=True, check=False
    )

    assert told.stdout.count("lost: ") == 2, told.stderr[-3000:]


class Sleeper(EchoRuntime):
    """A kernel that runs for seconds."""

    def __init__(self, place: torch.device) -> None:
        super().__init__()
        self._place = place

    def launch(self, batch: Batch) -> "Sleeping":
        answer = super().launch(batch)
        passage = Passage(self._place)
        torch.cuda._sleep(6_000_000_000)  # noqa: SLF001 - there is no other
        passage.end()
        return Sleeping(passage, answer)


class Sleeping:
    def __init__(self, passage: Passage, answer: Answer) -> None:
        self._passage = passage
        self._answer = answer

    @property
    def busy_s(self) -> float | None:
        return self._passage.busy_s

    def wait(self) -> Sequence[Row]:
        self._passage.wait()
        return self._answer.wait()


async def test_a_kernel_that_does_not_end_loses_the_device(gpu: Device) -> None:
    limits = Limits(max_batch_tokens=100, stuck_after_s=0.5)
    batcher = Batcher(
        Scheduler(limits, {"m": Lane(True, CostModel())}),
        {"cuda:0": {"m": Sleeper(gpu.place)}},
        limits,
        clock=time.monotonic,
        observer=lambda event: None,
        in_flight=2,
    )
    batcher.start()

    with pytest.raises(DeviceLost):
        await batcher.submit(call(deadline=time.monotonic() + 60))

    batcher.close()
    torch.cuda.synchronize()


async def test_the_whole_engine_answers_many_callers_at_once(bert: Path) -> None:
    config = EngineConfig(models=(ModelSource("m", str(bert)),), device=DeviceConfig(("cuda",)))
    engine = Engine(config)
    engine.load()
    engine.start()
    chance = np.random.default_rng(0)
    sequences = [chance.integers(5, 1000, int(n)).astype(np.int32) for n in chance.integers(1, 500, 3000)]

    async def ask(tokens: np.ndarray) -> Row:
        [result] = await engine.submit(call(Request("m", tokens), deadline=time.monotonic() + 120))
        return result.row

    rows = await asyncio.gather(*map(ask, sequences))
    [device] = engine.statistics().devices
    await engine.drained()
    engine.close()

    alone = load_encoder(read_checkpoint("m", bert), Device(torch.device("cuda", 0)), torch.float16)
    expected = [alone.rows([Request("m", tokens)])[0] for tokens in sequences[:300]]
    assert device.alive
    assert max(np.linalg.norm(a - b) for a, b in zip(rows[:300], expected, strict=True)) < 5e-3


def test_what_nvml_tells_is_real() -> None:
    torch.ones(1 << 28, device="cuda").sum().item()

    [gpu, *_] = Driver().read()

    assert gpu.name == torch.cuda.get_device_name(0)
    assert not gpu.lost
    assert gpu.memory_used_bytes and gpu.memory_used_bytes > 1 << 30
    assert gpu.memory_total_bytes and gpu.memory_total_bytes > gpu.memory_used_bytes
    assert gpu.power_w and 20 < gpu.power_w < 1000
    assert gpu.energy_j and gpu.energy_j > 0
    assert gpu.temperature_c and 10 < gpu.temperature_c < 100
