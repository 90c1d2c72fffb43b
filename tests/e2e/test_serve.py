import signal
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import openai
import pytest

from tests.e2e.conftest import Headrace
from tests.tiny import save_tiny

pytestmark = pytest.mark.e2e

LONG = "The headrace is the channel that brings the water of the river to the wheel of the mill. "
TEXTS = [f"{number} " + LONG * (1 + number % 8) for number in range(24)]


@pytest.mark.usefixtures("minilm_path")
def test_a_stop_under_load_answers_every_call_it_took(start: Callable[..., Headrace]) -> None:
    server = start("--drain-delay", "2", "--max-batch-tokens", "256")
    callers = [Caller(server.url, number) for number in range(16)]
    expected = embed(server.url, TEXTS)

    for caller in callers:
        caller.thread.start()
    server.until(lambda: all(caller.answers for caller in callers))
    server.signal(signal.SIGTERM)
    with httpx2.Client(base_url=server.url) as http:
        server.until(lambda: http.get("/readyz").status_code == 503)
        alive = http.get("/livez").status_code
    answered_before = sum(len(caller.answers) for caller in callers)
    server.until(lambda: sum(len(caller.answers) for caller in callers) > answered_before)
    for caller in callers:
        caller.stop.set()
    for caller in callers:
        caller.thread.join()
    code = server.wait()

    assert alive == 200
    assert [caller.failure for caller in callers] == [None] * 16
    answers = [answer for caller in callers for answer in caller.answers]
    assert all(np.abs(vector - expected[number]).max() < 1e-5 for number, vector in answers)
    assert code == 0
    assert "Traceback" not in server.said


@pytest.mark.usefixtures("minilm_path")
@pytest.mark.slow
def test_a_stop_finishes_the_backlog_that_was_taken(start: Callable[..., Headrace]) -> None:
    """Every caller has one call of twelve texts in the queue; an interrupt drains without delay."""
    server = start("--drain-delay", "600", "--max-batch-tokens", "256")
    callers = [Caller(server.url, number, texts=[*TEXTS[number:], *TEXTS][:12]) for number in range(16)]
    for caller in callers:
        caller.stop.set()  # after its first call
    for caller in callers:
        caller.thread.start()

    with httpx2.Client() as http:
        server.until(lambda: "headrace_in_flight 16.0" in http.get(server.metrics).text)
        exposition = http.get(server.metrics).text
    server.signal(signal.SIGINT)
    for caller in callers:
        caller.thread.join()
    code = server.wait()

    assert 'headrace_waiting_entries{model="all-MiniLM-L6-v2"} 0.0' not in exposition
    assert [caller.failure for caller in callers] == [None] * 16
    assert [len(caller.answers) for caller in callers] == [12] * 16
    assert code == 0


@pytest.mark.slow
def test_a_second_signal_does_not_wait(start: Callable[..., Headrace], tmp_path: Path) -> None:
    server = start("--model", str(save_tiny("bert", tmp_path / "bert")), "--drain-delay", "600")

    server.until(lambda: "ready: listening" in server.said)
    server.signal(signal.SIGTERM)
    server.until(lambda: "draining" in server.said)
    server.signal(signal.SIGTERM)

    assert server.wait() == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_stop_while_starting_is_clean(start: Callable[..., Headrace]) -> None:
    server = start()

    server.until(lambda: "load 0/1" in server.said or "warm up" in server.said)
    server.signal(signal.SIGTERM)

    assert server.wait() == 0
    assert "Traceback" not in server.said


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("scripted", "auto_map"),
        pytest.param("pickled", "pytorch_model.bin", marks=pytest.mark.slow),
        pytest.param("absent", "absent", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_served_is_one_line_with_code_2(
    start: Callable[..., Headrace], tmp_path: Path, kind: str, named: str
) -> None:
    folder = tmp_path / kind
    if kind != "absent":
        save_tiny("bert", folder)
    if kind == "pickled":
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    if kind == "scripted":
        config = folder / "config.json"
        config.write_text(config.read_text().replace("{", '{"auto_map": {"AutoModel": "evil.Model"},', 1))

    server = start("--model", str(folder))
    code = server.wait()

    refusals = [line for line in server.said.splitlines() if line.startswith("headrace: ")]
    assert code == 2
    assert len(refusals) == 1
    assert named in refusals[0]
    assert "Traceback" not in server.said


def embed(url: str, texts: list[str]) -> list[np.ndarray]:
    """Each text in a call of its own, one after another."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        answers = [client.embeddings.create(model="all-MiniLM-L6-v2", input=text) for text in texts]
    return [np.float32(answer.data[0].embedding) for answer in answers]


class Caller:
    """Calls until it is told to stop; remembers each text's number with its vector."""

    def __init__(self, url: str, seed: int, texts: list[str] | None = None) -> None:
        self.answers: list[tuple[int, np.ndarray]] = []
        self.failure: Exception | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self._client = openai.OpenAI(
            base_url=f"{url}/v1", api_key="x", max_retries=0
        )  # slow to make: not in the thread
        self._random = np.random.default_rng(seed)
        self._texts = texts

    def _run(self) -> None:
        try:
            with self._client:
                self._call()
                while not self.stop.is_set():
                    self._call()
        except Exception as error:  # noqa: BLE001 - the test shows it
            self.failure = error

    def _call(self) -> None:
        numbers = [int(self._random.integers(len(TEXTS)))]
        texts = self._texts or [TEXTS[number] for number in numbers]
        answer = self._client.embeddings.create(model="all-MiniLM-L6-v2", input=texts)
        if self._texts:
            numbers = list(map(TEXTS.index, texts))
        self.answers += [(n, np.float32(item.embedding)) for n, item in zip(numbers, answer.data, strict=True)]
