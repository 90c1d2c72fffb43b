"""The real process with a tiny model, a healthy caller, and attackers in a process of their own."""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.e2e.conftest import Headrace, start
from tests.tiny import save_tiny

__all__ = ["start"]  # a fixture

BODY = json.dumps({"input": "w1 w2 w3"})
PAUSE_S = 0.01


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


def ask(port: int, timeout_s: float = 30.0) -> tuple[int, bytes]:
    """One call over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("POST", "/v1/embeddings", BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Healthy:
    """A caller that does nothing wrong, one call after another; remembers what it was told and how long that took."""

    def __init__(self, port: int) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.errors: list[Exception] = []
        self.latencies_s: list[float] = []
        self._port = port
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
        wanted = len(self.answers) + count
        server.until(lambda: len(self.answers) >= wanted or self.errors)

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            started = time.perf_counter()
            try:
                self.answers.append(ask(self._port))
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
    port = urlsplit(server.metrics).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    lines = [line for line in text.splitlines() if line.startswith(f'headrace_cut_connections_total{{code="{code}"}}')]
    return float(lines[0].split()[-1]) if lines else 0.0
