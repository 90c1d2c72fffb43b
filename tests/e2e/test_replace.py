"""A model is replaced again and again in the real process, under steady calls."""

import asyncio
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest

from tests.e2e.conftest import Headrace

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.anyio]

TIMES = 20
CALLS_PER_S = 50
EARLY = 10  # after so many replacements memory has reached what it keeps: layouts of batches, room in the heap
ROOM_BYTES = 30_000_000  # for what is counted otherwise from one moment to the next: a third of the weights (87 MB)
LOAD = "/v2/repository/models/m/load"


async def test_a_model_is_replaced_twenty_times_under_steady_calls_without_a_failed_one_and_without_a_leak(
    start: Callable[..., Headrace], minilm_path: Path
) -> None:
    """Back where it was: the later ten replacements end with no more memory than the earlier ten reached, and room."""
    server = start("--model", f"m={minilm_path}", "--model-control", "explicit", "--drain-delay", "0")
    process = psutil.Process(server.process.pid)
    seen: Counter[int] = Counter()
    async with httpx2.AsyncClient(base_url=server.url, timeout=120, limits=httpx2.Limits(max_connections=None)) as http:
        wanted = await vector(http)
        calling = asyncio.create_task(steadily(http, seen, wanted))
        versions, taken = [], []
        for _ in range(TIMES):
            versions.append((await http.post(LOAD)).raise_for_status().json()["version"])
            taken.append(process.memory_info().rss)  # the old version's is given back before the answer
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
    server.signal(signal.SIGTERM)

    print(f"{sum(seen.values())} calls, MB after each replacement: {[round(each / 1e6) for each in taken]}")
    assert versions == [str(number) for number in range(2, TIMES + 2)]
    assert set(seen) == {200}
    assert taken[-1] <= max(taken[:EARLY]) + ROOM_BYTES
    assert server.wait() == 0
    assert "Traceback" not in server.said


async def vector(http: httpx2.AsyncClient) -> np.ndarray:
    answer = await http.post("/v1/embeddings", json={"input": "the wheel of the mill"})
    return np.array(answer.raise_for_status().json()["data"][0]["embedding"])


async def steadily(http: httpx2.AsyncClient, seen: Counter[int], wanted: np.ndarray) -> None:
    """Begin a call every so often, whatever became of those before; every answer is the right one."""

    async def one(number: int) -> None:
        answer = await http.post("/v1/embeddings", json={"input": ["the wheel of the mill", f"call {number}"]})
        seen[answer.status_code] += 1
        assert np.abs(np.array(answer.json()["data"][0]["embedding"]) - wanted).max() < 1e-5

    async with asyncio.TaskGroup() as calls:
        try:
            for number in range(10**9):
                calls.create_task(one(number))
                await asyncio.sleep(1 / CALLS_PER_S)
        except asyncio.CancelledError:
            pass  # those that are under way end


async def test_a_load_that_fails_leaves_the_real_model_serving(
    start: Callable[..., Headrace], minilm_path: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(minilm_path, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(os.urandom(1000))
    server = start("--model", f"m={minilm_path}", "--model-control", "explicit", "--model-root", str(tmp_path))
    async with httpx2.AsyncClient(base_url=server.url, timeout=120) as http:
        wanted = await vector(http)
        failed = await http.post(LOAD, json={"parameters": {"source": str(broken)}})

        assert failed.status_code == 400
        assert "safetensors" in failed.json()["error"]
        assert failed.json()["error"] in server.said
        assert np.abs(await vector(http) - wanted).max() < 1e-5
