"""The real process, as a person or an orchestrator starts it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DEADLINE_S = 150.0  # of a machine that does much else
READY = re.compile(r"ready: listening on (\S+)")
METRICS = re.compile(r"metrics on (\S+)")


class Headrace:
    """A `headrace serve` that runs, and what it says on stderr."""

    def __init__(self, log: Path, *arguments: str, module: str = "gateway") -> None:
        self._log = log
        command = [sys.executable, "-m", module, "serve", "--port", "0", "--metrics-port", "0", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL, env=environment)

    @property
    def said(self) -> str:
        """All of stderr."""
        return self._log.read_text()

    @property
    def url(self) -> str:
        """Where it listens, once it is ready."""
        return self._named(READY)

    @property
    def metrics(self) -> str:
        """Where its metrics are."""
        return self._named(METRICS)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Return the exit code, once it has ended."""
        return self.process.wait(DEADLINE_S)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition that only the process can bring about."""
        give_up = time.monotonic() + DEADLINE_S
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.said}"
            assert time.monotonic() < give_up, self.said
            time.sleep(0.02)

    def _named(self, line: re.Pattern[str]) -> str:
        self.until(lambda: line.search(self.said))
        found = line.search(self.said)
        assert found
        return found[1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Headrace]]:
    """Start processes, and leave none behind."""
    running: list[Headrace] = []

    def begin(*arguments: str, module: str = "gateway") -> Headrace:
        running.append(Headrace(tmp_path / f"{len(running)}.log", *arguments, module=module))
        return running[-1]

    yield begin
    for one in running:
        one.process.kill()
        one.process.wait()
