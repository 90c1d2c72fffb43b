"""A collector: takes OTLP over HTTP, as the real exporter sends it, and decodes the protobuf."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(ThreadingHTTPServer):
    """What arrived on /v1/traces; with its gate closed it takes requests and never answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.bodies: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        self.flush: Callable[[], None] = lambda: None

    @property
    def spans(self) -> list[Span]:
        """All spans, in the order of their arrival, once their sender has sent what it held back."""
        self.flush()
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        resources = [resource for request in requests for resource in request.resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]

    @property
    def resource(self) -> dict[str, str]:
        """What the first sender says of itself."""
        first = ExportTraceServiceRequest.FromString(self.bodies[0]).resource_spans[0].resource
        return {each.key: each.value.string_value for each in first.attributes}

    def named(self, name: str) -> list[Span]:
        """The spans of this name."""
        return [span for span in self.spans if span.name == name]


class _Taking(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["content-length"]))
        known = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
        if known:
            self.server.bodies.append(body)
        self.server.gate.wait(30)
        self.send_response(200 if known else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens."""
    collector = Collector()
    serving = threading.Thread(target=collector.serve_forever, args=(0.01,))
    serving.start()
    try:
        yield collector
    finally:
        collector.gate.set()
        collector.shutdown()
        collector.server_close()
        serving.join()


def facts(span: Span) -> dict[str, object]:
    """The attributes of a span."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}
