"""
The port of the metrics: an address of its own, where nobody holds a place for long.

A thread a connection, so connections are few, each must ask within a time, and all of it ends after another.
"""

import contextlib
import socket
import sys
import threading
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app
from prometheus_client.registry import Collector

from gateway.config import HttpConfig

_MOST: Final = 64  # connections at once: a Prometheus or two, and people who look


def export(http: HttpConfig, registry: Collector, most: int = _MOST) -> int:
    """Begin to answer scrapes, in threads that end with the process, and return the port; raises OSError."""
    server = _Exporter(http, registry, most)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server.server_port


class _Exporter(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, http: HttpConfig, registry: Collector, most: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
        self._free = threading.Semaphore(most)
        self._whole_s = http.header_timeout_s + http.send_timeout_s
        asking = type("Asking", (_Asking,), {"timeout": http.header_timeout_s})
        super().__init__((http.host, http.metrics_port), asking)
        self.set_app(make_wsgi_app(registry))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give it a thread, if one is free."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer it, within a time."""
        end = threading.Timer(self._whole_s, _cut, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of one that was cut, or has gone."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Asking(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def _cut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended
        request.shutdown(socket.SHUT_RDWR)
