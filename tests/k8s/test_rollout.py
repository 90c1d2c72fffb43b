"""A rollout and a scale-down, as callers see them: real replicas behind a balancer that forgives nothing."""

import asyncio
import collections
import signal
import threading
import time
from pathlib import Path

import httpx2
import pytest

from tests.e2e.conftest import READY, Headrace
from tests.k8s.balancer import Balancer, balancing, free_port
from tests.tiny import save_tiny

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

PER_SECOND = 100
NOTICED_S = 3.0  # many checks of the balancer
PATIENCE_S = 180.0  # a replica starts beside 100 calls/s


class Flow:
    """Calls at a fixed rate, whatever becomes of them, from a thread of its own."""

    def __init__(self, port: int) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self._url = f"http://127.0.0.1:{port}/v1/embeddings"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> "Flow":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        async with httpx2.AsyncClient(timeout=60, limits=limits) as http, asyncio.TaskGroup() as calls:
            started, number = time.monotonic(), 0
            while not self._stop.is_set():
                calls.create_task(self._call(http, number))
                number += 1
                await asyncio.sleep(started + number / PER_SECOND - time.monotonic())

    async def _call(self, http: httpx2.AsyncClient, number: int) -> None:
        try:
            answer = await http.post(self._url, json={"input": f"w{number % 100} w{number % 7}"})
            self.outcomes[str(answer.status_code)] += 1
        except httpx2.HTTPError as error:
            self.outcomes[type(error).__name__] += 1


class Replicas:
    """Two slots of a Deployment with maxSurge 0 and maxUnavailable 1."""

    def __init__(self, folder: Path, model: Path, *, drain_delay_s: float) -> None:
        self.ports = [free_port(), free_port()]
        self._folder = folder
        self._options = ["--model", f"tiny={model}", "--threads", "1", "--drain-delay", str(drain_delay_s)]
        self._started: list[Headrace] = []

    def __enter__(self) -> "Replicas":
        self.running = [self._start(slot) for slot in range(2)]
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._started:
            one.process.kill()
            one.process.wait()

    def stop(self, slot: int) -> int:
        """What the kubelet does; returns the exit code."""
        self.running[slot].signal(signal.SIGTERM)
        return self.running[slot].wait()

    def replace(self, slot: int, balancer: Balancer) -> int:
        """One step of a rollout; returns the exit code of the one that went."""
        code = self.stop(slot)
        self.running[slot] = self._start(slot)
        self.await_up(balancer)
        return code

    def await_up(self, balancer: Balancer) -> None:
        """Until every slot is ready, and the balancer sends calls to it."""
        give_up = time.monotonic() + PATIENCE_S
        while not all(READY.search(one.said) for one in self.running) or set(balancer.states().values()) != {"UP"}:
            assert time.monotonic() < give_up, [one.said for one in self.running]
            time.sleep(0.05)

    def _start(self, slot: int) -> Headrace:
        log = self._folder / f"{len(self._started)}.log"
        self._started.append(Headrace(log, "--port", str(self.ports[slot]), "--no-access-log", *self._options))
        return self._started[-1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("bert", tmp_path_factory.mktemp("rollout") / "bert")


def test_a_rollout_and_a_scale_down_fail_no_call(model: Path, tmp_path: Path) -> None:
    with (
        Replicas(tmp_path, model, drain_delay_s=NOTICED_S) as replicas,
        balancing(tmp_path, replicas.ports) as balancer,
    ):
        replicas.await_up(balancer)

        with Flow(balancer.port) as flow:
            codes = [replicas.replace(slot, balancer) for slot in range(2)]
            codes.append(replicas.stop(1))
            answered = flow.outcomes.total()
            replicas.running[0].until(lambda: flow.outcomes.total() > answered + PER_SECOND)

    assert codes == [0, 0, 0]
    assert flow.outcomes.keys() == {"200"}, flow.outcomes


def test_without_a_drain_the_same_rollout_fails_calls(model: Path, tmp_path: Path) -> None:
    """The control: this balancer and this flow do see a replica that goes without a word."""
    with Replicas(tmp_path, model, drain_delay_s=0) as replicas, balancing(tmp_path, replicas.ports) as balancer:
        replicas.await_up(balancer)

        with Flow(balancer.port) as flow:
            codes = [replicas.replace(slot, balancer) for slot in range(2)]

    assert codes == [0, 0]
    assert flow.outcomes["200"] > PER_SECOND
    assert flow.outcomes.total() > flow.outcomes["200"], flow.outcomes
