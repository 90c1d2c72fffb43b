"""Real processes before an engine that computes nothing: who ends is replaced, and what is told stays true."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import psutil
import pytest
from prometheus_client import CollectorRegistry

from gateway import server
from gateway.config import DrainConfig, HttpConfig, LogConfig, Settings
from gateway.parent import Parent
from gateway.samples import Pages
from inference import ModelSource
from tests.tiny import save_tiny

pytestmark = pytest.mark.anyio

DEADLINE_S = 150.0  # of a machine that does much else


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # as `headrace serve` does


@dataclass(frozen=True)
class Family:
    """A parent that runs in this process, and its children."""

    url: str
    running: "asyncio.Task[int]"
    registry: CollectorRegistry

    def children(self) -> dict[str, list[psutil.Process]]:
        """The processes by what they are: only the engine's has the engine's socket open, and listens on no port."""
        found: dict[str, list[psutil.Process]] = {"engine": [], "http": []}
        for process in psutil.Process().children():
            try:
                serves_http = any(each.status == psutil.CONN_LISTEN for each in process.net_connections("tcp"))
            except psutil.Error:
                continue
            if "child" in process.cmdline():
                found["http" if serves_http else "engine"].append(process)
        return found

    async def status(self, text: str = "w1") -> int:
        """Of one call on a connection of its own."""
        async with httpx2.AsyncClient(base_url=self.url, timeout=DEADLINE_S) as http:
            return (await http.post("/v1/embeddings", json={"input": text})).status_code

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that only the processes can bring about."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                assert not self.running.done(), self.running.result()
                await asyncio.sleep(0.02)

    async def until_ready(self, *, ready: bool = True) -> None:
        """Wait until readiness is so."""
        async with asyncio.timeout(DEADLINE_S), httpx2.AsyncClient(base_url=self.url, timeout=DEADLINE_S) as http:
            while (await http.get("/readyz")).status_code != (200 if ready else 503):
                await asyncio.sleep(0.02)

    async def counted(self, name: str, **labels: str) -> float:
        """One sample of all processes."""
        return await asyncio.to_thread(self.registry.get_sample_value, name, labels) or 0.0


@asynccontextmanager
async def family(
    home: Path, engine: str = "tests.gateway.fakes:engine_of_its_own", model: Path | None = None
) -> AsyncIterator[Family]:
    listener = server.bind("127.0.0.1", 0)
    settings = Settings(
        http=HttpConfig(workers=2),
        drain=DrainConfig(drain_delay_s=0.0, drain_timeout_s=5.0),
        log=LogConfig("error"),
    )
    models = () if model is None else (ModelSource("tiny", str(model)),)
    settings = replace(settings, engine=replace(settings.engine, models=models))
    parent = Parent(settings, listener, home, engine=engine)
    registry = CollectorRegistry()
    registry.register(Pages(parent.pages))
    running = asyncio.create_task(parent.run())
    subject = Family(f"http://127.0.0.1:{listener.getsockname()[1]}", running, registry)
    try:
        yield subject
    finally:
        if not running.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await running
        listener.close()


async def test_several_processes_answer_as_one_and_count_as_one(tmp_path: Path) -> None:
    async with family(tmp_path) as subject:
        await subject.until_ready()
        statuses = [await subject.status() for _ in range(4)]
        calls = await subject.counted("headrace_requests_total", route="/v1/embeddings", model="tiny", outcome="ok")
        batches = await subject.counted("headrace_batch_size_count", model="tiny")
        demand = await subject.counted("headrace_demand_ratio")
        os.kill(os.getpid(), signal.SIGTERM)
        code = await subject.running

    assert statuses == [200] * 4
    assert (calls, batches) == (4, 4)
    assert demand > 0
    assert code == 0


@pytest.mark.slow
async def test_no_http_process_has_torch(tmp_path: Path) -> None:
    async with family(tmp_path, "inference:Engine", save_tiny("bert", tmp_path / "bert")) as subject:
        await subject.until_ready()
        children = subject.children()
        mapped = {
            role: [bool(re.search("libtorch", Path(f"/proc/{each.pid}/maps").read_text())) for each in processes]
            for role, processes in children.items()
        }

    assert mapped == {"engine": [True], "http": [False, False]}


@pytest.mark.slow
async def test_an_http_process_that_is_killed_loses_its_own_connections_and_is_replaced(tmp_path: Path) -> None:
    async with family(tmp_path) as subject:
        await subject.until_ready()
        await subject.until(lambda: len(subject.children()["http"]) == 2)
        before = [await subject.status() for _ in range(4)]
        counted = await subject.counted("headrace_requests_total", route="/v1/embeddings", model="tiny", outcome="ok")
        killed = subject.children()["http"][0]
        killed.kill()
        after = [await subject.status() for _ in range(4)]
        await subject.until(lambda: len(subject.children()["http"]) == 2)
        still_counted = await subject.counted(
            "headrace_requests_total", route="/v1/embeddings", model="tiny", outcome="ok"
        )

    assert before + after == [200] * 8
    assert (counted, still_counted) == (4, 8)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["w9", "w7"], ids=["it dies", "it loses its device"])
async def test_an_engine_that_dies_fails_its_calls_at_once_and_is_replaced(tmp_path: Path, word: str) -> None:
    async with family(tmp_path) as subject:
        await subject.until_ready()
        async with httpx2.AsyncClient(base_url=subject.url, timeout=DEADLINE_S) as http:
            deadly = (await http.post("/v1/embeddings", json={"input": word})).status_code
            meanwhile = (await http.post("/v1/embeddings", json={"input": "w1"})).status_code
            alive = await http.get("/livez")
        await subject.until_ready()
        after = await subject.status()

    assert (deadly, meanwhile, alive.status_code, after) == (503, 503, 200, 200)


@pytest.mark.slow
async def test_an_engine_that_cannot_start_ends_all(tmp_path: Path) -> None:
    async with family(tmp_path, "tests.gateway.fakes:no_such_engine") as subject:
        async with asyncio.timeout(DEADLINE_S):
            code = await subject.running

    assert code == 1
