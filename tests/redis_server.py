"""A real Redis (Debian: redis-server) that may go and come back."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.conftest import skip


class RedisServer:
    """A redis-server on a socket of its own."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "redis"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        found = shutil.which("redis-server")
        if found is None:
            skip("redis-server is not installed")
        words = ["--port", "0", "--unixsocket", str(self._socket), "--save", "", "--daemonize", "no"]
        self._process = subprocess.Popen([str(found), *words], stdout=subprocess.DEVNULL, cwd=self._socket.parent)
        until(self._answers)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._socket.unlink(missing_ok=True)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as caller, suppress(OSError):
            caller.connect(str(self._socket))
            caller.sendall(b"PING\r\n")
            return caller.recv(7) == b"+PONG\r\n"
        return False


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)
