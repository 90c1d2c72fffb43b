"""A Headrace server in a process of its own on one core, and what that process spends."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import psutil
from prometheus_client.parser import text_string_to_metric_families

_START_WITHIN_S: Final = 600.0  # on a machine that does much else, importing torch alone has taken minutes
_LOOK_EVERY_S: Final = 0.05
_CHILDREN_END_WITHIN_S: Final = 3.0


class NotReady(Exception):
    """The server did not start; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches so far, and what was in them."""

    count: float
    sequences: float
    tokens: float

    def __sub__(self, earlier: "Batches") -> "Batches":
        """What came since then."""
        return Batches(self.count - earlier.count, self.sequences - earlier.sequences, self.tokens - earlier.tokens)


class Process:
    """A server's process that runs, whoever's it is."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        """Take the process and where it listens."""
        self.port = port
        self.pid = process.pid
        self._process = psutil.Process(process.pid)

    def cpu_s(self) -> float:
        """Seconds of CPU that the server and its children have used, user and system."""
        return sum(map(_cpu_s, (self._process, *self._process.children(recursive=True))))

    def children_by_role(self) -> dict[str, list[psutil.Process]]:
        """Return its processes by what they are for, where HTTP has processes of its own: only those serve a port."""
        found: dict[str, list[psutil.Process]] = {"engine": [], "HTTP": []}
        for child in self._process.children():
            with contextlib.suppress(psutil.Error):  # it has just ended
                found["HTTP" if child.net_connections("tcp") else "engine"].append(child)
        return found

    def cpu_by_role_s(self) -> dict[str, list[float]]:
        """Seconds of CPU of each process, by what it is for; where there is only one, it is the parent."""
        children = {role: list(map(_cpu_s, found)) for role, found in self.children_by_role().items()}
        return {"parent": [_cpu_s(self._process)], **children}

    def memory_mb(self) -> float:
        """Resident memory of the server and its children; pages that they share count for each."""
        processes = (self._process, *self._process.children(recursive=True))
        return float(sum(process.memory_info().rss for process in processes)) / 1e6

    def loop_cpu_s(self) -> float:
        """Seconds of CPU of its main thread alone: HTTP, tokenising short texts, admission."""
        own = next(thread for thread in self._process.threads() if thread.id == self._process.pid)
        return float(own.user_time + own.system_time)


class Server(Process):
    """A Headrace server that runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, metrics_port: int) -> None:
        """Take the process and where it listens."""
        super().__init__(process, port)
        self._metrics_port = metrics_port

    def batches(self) -> Batches:
        """Read what ran from the server's metrics."""
        samples = self._samples()
        return Batches(
            samples.get("headrace_batch_size_count", 0.0),
            samples.get("headrace_batch_size_sum", 0.0),
            samples.get("headrace_batch_tokens_sum", 0.0),
        )

    def tasks(self) -> int:
        """Read how many tasks its event loop has."""
        return int(self._samples()["headrace_tasks"])

    def demand(self) -> tuple[float, float]:
        """Read the two terms of its demand: offered work, and work in flight."""
        samples = self._samples()
        return samples["headrace_offered_ratio"], samples["headrace_in_flight_ratio"]

    def _samples(self) -> dict[str, float]:
        _, text = _get(self._metrics_port, "/metrics")
        return {
            sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
        }


@contextmanager
def serving(core: int, *flags: str) -> Iterator[Server]:
    """Serve the built-in default model on one core with one thread; raises NotReady."""
    port, metrics_port = free_ports(2)
    told = ["--port", str(port), "--metrics-port", str(metrics_port), "--device", "cpu", "--threads", "1"]
    command = [sys.executable, "-m", "gateway", "serve", *told, "--drain-delay", "0", *flags]
    with _process(core, command, port=port, ready="/readyz") as process:
        yield Server(process, port, metrics_port)


@contextmanager
def running(
    core: int | set[int], command: Sequence[str], *, environment: Mapping[str, str], port: int, ready: str
) -> Iterator[Process]:
    """Run a server of somebody else's on one core, or on several, until the block ends; raises NotReady."""
    with _process(core, command, port=port, ready=ready, environment=environment) as process:
        yield Process(process, port)


@contextmanager
def _process(
    core: int | set[int], command: Sequence[str], *, port: int, ready: str, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    with ExitStack() as stack:
        log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
        with log.open("wb") as sink, _pinned(core):
            process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment)
        stack.callback(_stop, process)
        _await_ready(process, port, ready, log)
        yield process


@contextmanager
def _pinned(core: int | set[int]) -> Iterator[None]:
    """Let processes that are started inside inherit this core, or these."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, core if isinstance(core, set) else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _await_ready(process: "subprocess.Popen[bytes]", port: int, ready: str, log: Path) -> None:
    until = time.monotonic() + _START_WITHIN_S
    while process.poll() is None and time.monotonic() < until:
        try:
            status, _ = _get(port, ready)
        except OSError:
            status = 0
        if status == 200:
            return
        time.sleep(_LOOK_EVERY_S)
    raise NotReady("\n".join(log.read_text(errors="replace").splitlines()[-20:]))


def _cpu_s(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End it, and the children that some servers leave behind."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=_CHILDREN_END_WITHIN_S)
    for child in alive:
        child.kill()


def _get(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on now."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
