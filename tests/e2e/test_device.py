"""A device that fails ends the process: whoever waits is told, and an orchestrator starts another."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
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
