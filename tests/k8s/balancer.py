"""haproxy in front of replicas, as strict as a balancer can be: it asks /readyz and never tries a call twice."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import skip

CONFIG = """
global
    stats socket {admin} level admin
defaults
    mode http
    timeout connect 5s
    timeout check 5s
    timeout client 60s
    timeout server 60s
    retries 0
    no option redispatch
frontend calls
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 500ms fall 1 rise 1
{servers}
"""


class Balancer:
    """A running haproxy; slots are named `slot0`, `slot1` and on."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.port = free_port()
        self._admin = folder / "admin"
        servers = "\n".join(f"    server slot{slot} 127.0.0.1:{port}" for slot, port in enumerate(ports))
        config = folder / "haproxy.cfg"
        config.write_text(CONFIG.format(admin=self._admin, port=self.port, servers=servers))
        self.process = subprocess.Popen(["haproxy", "-db", "-f", str(config)])

    def states(self) -> dict[str, str]:
        """What it thinks of each slot: `UP`, `DOWN` or on its way."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self._admin))
            admin.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: admin.recv(65536), b"")).decode()
        rows = [line.split(",") for line in answer.splitlines()]
        state = rows[0].index("status")
        return {row[1]: row[state] for row in rows[1:] if len(row) > state and row[1].startswith("slot")}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


@contextlib.contextmanager
def balancing(folder: Path, ports: list[int]) -> Iterator[Balancer]:
    """Start haproxy, and end it."""
    if not shutil.which("haproxy"):
        skip("haproxy is not installed: Debian's package haproxy")
    balancer = Balancer(folder, ports)
    try:
        yield balancer
    finally:
        balancer.process.kill()
        balancer.process.wait()
