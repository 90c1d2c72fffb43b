import contextlib
import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from gateway.config import HttpConfig
from gateway.exporter import export

HASTY = HttpConfig(metrics_port=0, header_timeout_s=0.1, send_timeout_s=0.2)


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("drops", "Of water", registry=made).inc()
    return made


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def until_scraped(port: int) -> str:
    """Once there is room."""
    while True:
        try:
            return scraped(port)
        except ConnectionError:  # of http.client's too
            pass


def ask_without_end(connection: socket.socket) -> None:
    """Send a letter whenever none was answered for a while; raises ConnectionError once it is cut."""
    connection.settimeout(0.02)
    while True:
        connection.sendall(b"G")
        with contextlib.suppress(TimeoutError):
            if connection.recv(1) == b"":
                raise ConnectionError


def ended(connection: socket.socket) -> bool:
    """Whether the other side closes it, waiting for that."""
    connection.settimeout(10)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_metrics_are_told(registry: CollectorRegistry) -> None:
    assert "drops_total 1.0" in scraped(export(HASTY, registry))


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nHost: x"])
def test_a_connection_that_asks_nothing_ends(registry: CollectorRegistry, said: bytes) -> None:
    port = export(HASTY, registry)

    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.sendall(said)

        assert ended(silent)


def test_a_connection_that_goes_on_asking_ends_too(registry: CollectorRegistry) -> None:
    port = export(HttpConfig(metrics_port=0, header_timeout_s=0.1, send_timeout_s=0.1), registry)

    with socket.create_connection(("127.0.0.1", port)) as slow, pytest.raises(ConnectionError):
        ask_without_end(slow)


def test_connections_are_few_and_one_that_ends_makes_room(registry: CollectorRegistry) -> None:
    port = export(HttpConfig(metrics_port=0), registry, most=2)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]

    with socket.create_connection(("127.0.0.1", port)) as one_more:
        refused = ended(one_more)
    for each in silent:
        each.close()

    assert refused
    assert "drops_total" in until_scraped(port)


def test_a_port_that_is_taken_is_an_error(registry: CollectorRegistry) -> None:
    port = export(HASTY, registry)

    with pytest.raises(OSError, match="in use"):
        export(HttpConfig(metrics_port=port), registry)
