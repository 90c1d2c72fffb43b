"""
OpenTelemetry: a span for each exchange, in it the wait in the queue and the run, linked to the span of the batch.

Knows no input and no body. Its library is optional: nothing imports this module unless traces are asked for.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import __version__
from gateway.config import TraceConfig
from gateway.telemetry import Exchange, exchange_of
from inference import CallTimings, Report

_MOST_BATCHES: Final = 1024  # whose spans are remembered: far more than can have calls under way
_SERVER_ERROR: Final = 500

Attributes = Mapping[str, str | int | float]


def exporter(endpoint: str) -> SpanExporter:
    """Return the way to a collector."""
    return OTLPSpanExporter(f"{endpoint}/v1/traces")


class Tracer:
    """What makes spans of exchanges; on the event loop alone, but for `close`."""

    def __init__(self, config: TraceConfig, exporter: SpanExporter, *, flush_s: float = 5.0) -> None:
        """
        Take where spans go, and how long a stop may wait for them: it is part of a pod's grace period.

        Which calls are kept is the sampler's choice; their batches are always kept.
        """
        resource = Resource.create({"service.name": config.service_name, "service.version": __version__})
        sending = BatchSpanProcessor(exporter)
        self._calls = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._calls.add_span_processor(sending)
        of_batches = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        of_batches.add_span_processor(sending)
        self._of_calls = self._calls.get_tracer("headrace", __version__)
        self._of_batches = of_batches.get_tracer("headrace", __version__)
        self._batches: OrderedDict[int, SpanContext] = OrderedDict()
        self._incoming = TraceContextTextMapPropagator()
        self._flush_s = flush_s

    def around(self, app: ASGIApp) -> ASGIApp:
        """Put spans around an application that is itself inside the telemetry's middleware."""
        return _Traced(app, self)

    def begin(self, scope: Scope) -> Span:
        """Begin the span of an exchange, in the trace that its caller names (W3C Trace Context)."""
        parent = self._incoming.extract(scope["headers"], getter=_HEADERS)
        return self._of_calls.start_span(scope["method"], parent, SpanKind.SERVER, start_time=time.time_ns())

    def end(self, span: Span, method: str, exchange: Exchange) -> None:
        """End it with what is known by now; a probe's is dropped."""
        if exchange.route == "probe" or not span.is_recording():
            return
        span.update_name(f"{method} {exchange.route}")
        span.set_attributes(_facts(method, exchange))
        if exchange.status >= _SERVER_ERROR:
            span.set_status(StatusCode.ERROR)
        if exchange.timings is not None and exchange.timings.batch is not None:
            self._parts(span, exchange.timings, exchange.timings.batch)
        span.end()

    def close(self) -> None:
        """Send what is left, but do not wait long for who does not take it."""
        sending = threading.Thread(target=self._calls.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(self._flush_s)

    def _parts(self, span: Span, timings: CallTimings, batch: Report) -> None:
        """Draw the queue and the run of a call's slowest input, which are known when both are over."""
        inside, epoch_s = set_span_in_context(span), time.time() - time.monotonic()
        started = epoch_s + batch.started
        linked = [Link(self._batch(batch, started))]
        queue = self._of_calls.start_span("queue", inside, links=linked, start_time=_ns(started - timings.queue_s))
        queue.end(_ns(started))
        run = self._of_calls.start_span("device", inside, start_time=_ns(started))
        run.end(_ns(started + timings.device_s))

    def _batch(self, batch: Report, started: float) -> SpanContext:
        """Return the span of a batch, drawn when the first call that is kept names it."""
        known = self._batches.get(batch.number)
        if known is not None:
            return known
        span = self._of_batches.start_span("batch", start_time=_ns(started))
        span.set_attributes(
            {
                "headrace.batch": batch.number,
                "headrace.model": batch.model,
                "headrace.batch.size": batch.sequences,
                "headrace.batch.tokens": batch.tokens,
                "headrace.batch.padded_tokens": batch.padded_tokens,
                "headrace.batch.predicted_seconds": batch.predicted_s,
            }
        )
        span.end(_ns(started + batch.device_s))
        self._batches[batch.number] = span.get_span_context()
        if len(self._batches) > _MOST_BATCHES:
            self._batches.popitem(last=False)
        return span.get_span_context()


class _Traced:
    """ASGI middleware: begins and ends the span, and tells the caller its name."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange, span = exchange_of(scope), self._tracer.begin(scope)
        context = span.get_span_context()
        exchange.trace = f"{context.trace_id:032x}"
        name = f"00-{exchange.trace}-{context.span_id:016x}-{context.trace_flags:02x}".encode()

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"traceresponse", name)]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        finally:
            self._tracer.end(span, scope["method"], exchange)


class _Headers(Getter[Any]):
    """Reads the headers of a scope."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        wanted = key.encode()
        return [str(value, "latin-1") for name, value in carrier if name == wanted] or None

    def keys(self, carrier: Any) -> list[str]:
        return [str(name, "latin-1") for name, _ in carrier]


_HEADERS: Final = _Headers()


def _facts(method: str, exchange: Exchange) -> Attributes:
    facts: dict[str, str | int | float] = {
        "http.request.method": method,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "headrace.request_id": exchange.request_id,
        "headrace.outcome": exchange.outcome,
        "headrace.items": exchange.items,
        "headrace.tokens": exchange.tokens,
    }
    named = {"headrace.model": exchange.model, "error.type": exchange.code, "headrace.reason": exchange.reason}
    facts |= {name: value for name, value in named.items() if value}
    if exchange.timings is not None:
        facts["headrace.tokenise_seconds"] = exchange.timings.tokenise_s
    return facts


def _ns(epoch_s: float) -> int:
    return round(epoch_s * 1e9)
