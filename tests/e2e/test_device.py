"""A device that fails ends the process: whoever waits is told, and an orchestrator starts another."""

import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.e2e.conftest import Headrace
from tests.tiny import save_tiny

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def server(start: Callable[..., Headrace], tmp_path: Path) -> Headrace:
    model = save_tiny("bert", tmp_path / "bert")
    return start("--model", str(model), "--stuck-after", "2", "--drain-delay", "1", module="tests.e2e.faulty")


def status(server: Headrace, words: str) -> int:
    return httpx2.post(f"{server.url}/v1/embeddings", json={"input": words}, timeout=30.0).status_code


def test_a_stuck_device_ends_the_process_without_waiting_for_it(server: Headrace) -> None:
    in_flight = re.compile(r"^headrace_in_flight (\S+)$", re.MULTILINE)
    before = status(server, "w9")

    with ThreadPoolExecutor(9) as callers:
        stuck = callers.submit(status, server, "w1")
        server.until(lambda: in_flight.findall(httpx2.get(server.metrics).text) == ["1.0"])
        waiting = [callers.submit(status, server, f"w{number}") for number in range(10, 18)]
        told = [one.result() for one in (stuck, *waiting)]
    code = server.wait()

    assert before == 200
    assert told == [503] * 9
    assert code == 1
    assert "a batch does not end" in server.said


@pytest.mark.parametrize("word", ["w2", "w3"], ids=["a bug", "a lost device"])
def test_a_dead_device_thread_ends_the_process(server: Headrace, word: str) -> None:
    answers = [status(server, words) for words in ("w9", word)]
    code = server.wait()

    assert answers == [200, 503]
    assert code == 1


def test_two_devices_answer_together_what_each_call_is_answered_alone(
    start: Callable[..., Headrace], tmp_path: Path
) -> None:
    model = str(save_tiny("bert", tmp_path / "bert"))
    server = start("--model", model, "--device", "cpu,cpu", "--drain-delay", "0")
    texts = [f"w{number} w{number + 1}" for number in range(60)]

    def answer(part: int) -> list[list[float]]:
        body = {"input": texts[part : part + 6]}
        told = httpx2.post(f"{server.url}/v1/embeddings", json=body, timeout=60.0).raise_for_status()
        return [each["embedding"] for each in told.json()["data"]]

    alone = list(map(answer, range(0, 60, 6)))
    with ThreadPoolExecutor(10) as callers:
        together = list(callers.map(answer, range(0, 60, 6)))
    devices = httpx2.get(f"{server.url}/console/data").json()["devices"]
    server.signal(signal.SIGTERM)

    assert np.abs(np.array(together) - np.array(alone)).max() < 1e-5
    assert [device["name"] for device in devices] == ["cpu:0", "cpu:1"]
    assert sum(device["batches"] for device in devices) > 10
    assert server.wait() == 0


def test_one_of_two_devices_that_dies_ends_the_process(start: Callable[..., Headrace], tmp_path: Path) -> None:
    model = str(save_tiny("bert", tmp_path / "bert"))
    server = start("--model", model, "--device", "cpu,cpu", "--drain-delay", "1", module="tests.e2e.faulty")

    answers = [status(server, words) for words in ("w9", "w3")]

    assert answers == [200, 503]
    assert server.wait() == 1
