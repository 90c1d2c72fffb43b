"""The real process with a tiny model, a healthy caller, and attackers in a process of their own."""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from tests.e2e.conftest import Headrace, start
from tests.tiny import save_tiny

__all__ = ["start"]  # a fixture

BODY = json.dumps({"input": "w1 w2 w3"})
PAUSE_S = 0.01
CALLERS = 8
NEAR = 1e-5


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("bert", tmp_path_factory.mktemp("hostile") / "tiny")


@pytest.fixture
def server(start: Callable[..., Headrace], model: Path) -> Headrace:
    """A server that is ready."""
    return begin(start, model)


def begin(start: Callable[..., Headrace], model: Path, *flags: str) -> Headrace:
    server = start("--model", str(model), "--threads", "1", "--no-access-log", *flags)
    server.until(lambda: server.url)
    return server


def port_of(server: Headrace) -> int:
    port = urlsplit(server.url).port
    assert port
    return port


def ask(port: int, body: str = BODY, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """One call over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Healthy:
    """A caller that does nothing wrong, one call after another; remembers what it was told and how long that took."""

    def __init__(self, port: int, body: str = BODY, headers: Mapping[str, str] | None = None) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.errors: list[Exception] = []
        self.latencies_s: list[float] = []
        self._call = (port, body, headers)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Healthy":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def until(self, count: int, server: Headrace) -> None:
        """Wait for so many answers more."""
        each_until([self], count, server)

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            started = time.perf_counter()
            try:
                self.answers.append(ask(*self._call))
            except OSError as error:
                self.errors.append(error)
            self.latencies_s.append(time.perf_counter() - started)


@contextmanager
def attacked(port: int, name: str) -> Iterator[None]:
    """Run an attack beside what is inside."""
    command = [sys.executable, "-m", "benchmarks.attacks", name, str(port), "600"]
    attackers = subprocess.Popen(command)
    try:
        yield
        assert attackers.poll() is None, f"the attack ended by itself with {attackers.returncode}"
    finally:
        attackers.kill()
        attackers.wait()


def memory_of(server: Headrace) -> int:
    """Bytes that are resident."""
    return int(psutil.Process(server.process.pid).memory_info().rss)


def cuts(server: Headrace, code: str) -> float:
    """How many connections were cut for this."""
    return counted(server, f'headrace_cut_connections_total{{code="{code}"}}')


def counted(server: Headrace, name: str) -> float:
    """The sum of the metrics whose names and labels begin so."""
    port = urlsplit(server.metrics).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


@contextmanager
def callers(port: int, count: int = CALLERS, headers: Mapping[str, str] | None = None) -> Iterator[list[Healthy]]:
    """Several healthy callers, each with a text of its own."""
    texts = [json.dumps({"input": f"w1 w2 w{10 + number}"}) for number in range(count)]
    with ExitStack() as stack:
        yield [stack.enter_context(Healthy(port, text, headers)) for text in texts]


def each_until(everybody: list[Healthy], count: int, server: Headrace) -> None:
    """Wait until each has so many answers more, or an error."""
    wanted = [len(one.answers) + count for one in everybody]
    server.until(
        lambda: all(len(one.answers) >= enough or one.errors for one, enough in zip(everybody, wanted, strict=True))
    )


def all_answered(everybody: list[Healthy]) -> bool:
    """Nothing was lost, wrong or somebody else's: all calls were answered, each caller's alike."""
    return not any(one.errors for one in everybody) and right([one.answers for one in everybody])


def right(answers: list[list[tuple[int, bytes]]]) -> bool:
    """Whether each caller had vectors: always its own, but for rounding in other batches, and nobody else's."""
    if not all(told and {status for status, _ in told} == {200} for told in answers):
        return False
    vectors = [np.float32([json.loads(body)["data"][0]["embedding"] for _, body in told]) for told in answers]
    firsts = np.stack([rows[0] for rows in vectors])
    apart = np.abs(firsts[:, None] - firsts).max(axis=2) + np.eye(len(firsts))
    return bool(apart.min() > NEAR) and all(np.abs(rows - rows[0]).max() < NEAR for rows in vectors)


def healed_s(port: int, since: float, headers: Mapping[str, str] | None = None) -> float:
    """Seconds until a call is answered."""
    while True:
        with suppress(OSError):
            if ask(port, headers=headers)[0] == 200:
                return time.monotonic() - since
        time.sleep(0.01)
