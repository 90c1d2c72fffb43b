"""
What people see: the request id, one log line a call, and Prometheus.

Engine reports become metrics here and nowhere else. Labels are never text that a caller made, and no
line holds an input.
"""

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import __version__
from gateway.caller import Caller
from inference import BatcherStatistics, CallTimings, Demand, Dispatched, Report

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

_access = logging.getLogger("headrace.access")

_PROCESS: Final = secrets.token_hex(8)  # once: asking the system for every call gives up the interpreter lock
_numbers = itertools.count()

_LINE: Final = "%s %s %d %.1fms id=%s model=%s items=%d tokens=%d%s"
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_POWERS: Final = tuple(2.0**i for i in range(18))
_NOT_RUN: Final = frozenset({429, 503, 504})
_COST_OF: Final = ("batch", "token", "sequence", "squared_token")
_OUTCOMES: Final = {429: "refused", 499: "cancelled", 504: "expired"}


@dataclass(slots=True)
class Exchange:
    """What is known of one HTTP exchange; filled in on its way."""

    request_id: str
    route: str = "other"
    model: str = ""
    status: int = 499  # until an answer starts
    code: str = ""
    reason: str = ""
    items: int = 0
    tokens: int = 0
    timings: CallTimings | None = None  # of a call that was answered
    trace: str = ""  # the id of its trace, where traces are kept
    caller: Caller | None = None  # who has shown a key
    action: str = ""  # what an admin does, for the audit log
    started: float = field(default_factory=time.monotonic)

    @property
    def outcome(self) -> str:
        """`ok`, `refused`, `expired`, `cancelled`, `invalid` or `failed`."""
        families = {2: "ok", 3: "ok", 4: "invalid"}
        return _OUTCOMES.get(self.status) or families.get(self.status // 100, "failed")


def exchange_of(scope: Scope) -> Exchange:
    """Return the record of this exchange."""
    exchange: Exchange = scope["headrace"]
    return exchange


def header(scope: Scope, name: bytes) -> str | None:
    """Return a header by its name in lower case; the first, if there are several."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def server_timing(timings: CallTimings) -> str:
    """Format where a call's time went as a Server-Timing header (W3C), in milliseconds."""
    tokenise_ms, queue_ms, device_ms = timings.tokenise_s * 1000, timings.queue_s * 1000, timings.device_s * 1000
    return f"tokenise;dur={tokenise_ms:.2f}, queue;dur={queue_ms:.2f}, device;dur={device_ms:.2f}"


class Telemetry:
    """ASGI middleware: names every exchange, counts it, and writes its line."""

    def __init__(self, app: ASGIApp, metrics: "Metrics", *, access_log: bool, draining: Callable[[], bool]) -> None:
        """Wrap the application; while `draining()`, every answer asks its connection to close."""
        self._app = app
        self._metrics = metrics
        self._access_log = access_log
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = scope["headrace"] = Exchange(_request_id(scope))

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                own = [(b"x-request-id", exchange.request_id.encode())]
                if self._draining():
                    own.append((b"connection", b"close"))
                message["headers"] = [*message["headers"], *own]
            await send(message)

        self._metrics.in_flight += 1
        try:
            await self._app(scope, receive, send_named)
        finally:
            self._metrics.in_flight -= 1
            self._metrics.answered(exchange)
            if self._access_log and exchange.route != "probe":
                _log_line(scope, exchange)


class Metrics:
    """Prometheus, in a registry of its own."""

    def __init__(self, latency_target_s: float) -> None:
        """Make every metric; the latency target gets a bucket of its own."""
        self.registry = CollectorRegistry()
        seconds = sorted({*_SECONDS, latency_target_s})

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"headrace_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"headrace_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: "list[float] | tuple[float, ...]", *labels: str) -> Histogram:
            return Histogram(f"headrace_{name}", text, labels, registry=self.registry, buckets=buckets)

        shares = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9]
        self.requests = counter("requests", "Calls answered", "route", "model", "outcome")
        self.refusals = counter("refusals", "Calls that were not run", "reason")
        self.callers = counter("caller_requests", "Calls answered, by the key's caller", "caller", "outcome")
        self.spent = counter("caller_tokens", "Real tokens of answered calls", "caller")
        self.cuts = counter("cut_connections", "Connections that were cut, by the code they were told", "code")
        self.in_flight = 0
        gauge("in_flight", "HTTP exchanges in progress").set_function(lambda: self.in_flight)
        self.request_s = histogram("request_seconds", "Of answers: from first byte read", seconds, "route", "model")
        self.tokenise_s = histogram("tokenise_seconds", "Text to tokens, a call", seconds, "model")
        self.queue_s = histogram("queue_seconds", "Admission to dispatch, an input", seconds, "model")
        self.device_s = histogram("device_seconds", "Dispatch to answer, a batch", seconds, "model")
        self.batch_size = histogram("batch_size", "Inputs in a batch", _POWERS, "model")
        self.batch_tokens = histogram("batch_tokens", "Real tokens in a batch", _POWERS, "model")
        self.padding = histogram("padding_ratio", "Padding tokens per computed token, a batch", shares, "model")
        self.failures = counter("batch_failures", "Batches that failed as a whole", "model", "error")
        self.load_s = gauge("model_load_seconds", "Reading weights and the packing self-test", "model")
        self.warm_up_s = gauge("model_warm_up_seconds", "Rehearsing batches before ready", "model")
        self.tasks = gauge("tasks", "Tasks of the event loop: those of calls, and a few of its own")
        self.shared = gauge("shared_limits", "1: limits of callers are counted in Redis; 0: by this process alone")
        self._requests_of = cache(self.requests.labels)  # labels() checks its values and takes a lock; they are few
        self._request_s_of = cache(self.request_s.labels)
        self._refusals_of = cache(self.refusals.labels)
        self._callers_of = cache(self.callers.labels)
        self._spent_of = cache(self.spent.labels)
        self._tokenise_s_of = cache(self.tokenise_s.labels)
        self._batches_of = cache(self._bind_batches)
        gauge("build_info", "Version of this server", "version").labels(__version__).set(1)

    def count_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell from now on how many tasks there are: more and more of them would be a leak."""
        self.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))

    def answered(self, exchange: Exchange) -> None:
        """Count an exchange that ended."""
        outcome = exchange.outcome
        self._requests_of(exchange.route, exchange.model, outcome).inc()
        if outcome == "ok":  # a refusal is quick, and would make an overload look good
            self._request_s_of(exchange.route, exchange.model).observe(time.monotonic() - exchange.started)
        if exchange.caller is not None:
            self._callers_of(exchange.caller.name, outcome).inc()
            self._spent_of(exchange.caller.name).inc(exchange.tokens)
        if exchange.status in _NOT_RUN and exchange.code:
            self._refusals_of(exchange.reason or exchange.code).inc()

    def limits_shared(self, there: bool) -> None:
        """Record whether Redis counts callers' limits, or each replica for itself."""
        self.shared.set(there)

    def cut(self, code: str) -> None:
        """Count a connection that was cut."""
        self.cuts.labels(code).inc()

    def tokenised(self, model: str, seconds: float) -> None:
        """Record how long a call's texts took to become tokens."""
        self._tokenise_s_of(model).observe(seconds)

    def loaded(self, model: "ServedModel") -> None:
        """Record what a model's start cost."""
        self.load_s.labels(model.name).set(model.load_s)
        self.warm_up_s.labels(model.name).set(model.warm_up_s)

    def sample(self, name: str, **labels: str) -> float:
        """Return one sample, 0 when it was never moved; it reads all of them, so it is not for hot paths."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def engine_event(self, event: Dispatched | Report) -> None:
        """Record what the batcher reports; called on the device's thread."""
        batches = self._batches_of(event.model)
        if isinstance(event, Dispatched):
            for wait_s in event.waits_s:
                batches.queue_s.observe(wait_s)
            return
        if event.error is not None:
            self.failures.labels(event.model, event.error).inc()
        batches.device_s.observe(event.device_s)
        batches.size.observe(event.sequences)
        batches.tokens.observe(event.tokens)
        batches.padding.observe(1 - event.tokens / event.padded_tokens)

    def watch(self, statistics: Callable[[], BatcherStatistics | None], ready: Callable[[], bool]) -> None:
        """Pull the queue's gauges whenever somebody scrapes, and those of demand while `ready()`."""
        self.registry.register(_Waiting(statistics, ready))

    def _bind_batches(self, model: str) -> "_Batches":
        metrics = (self.queue_s, self.device_s, self.batch_size, self.batch_tokens, self.padding)
        return _Batches(*(metric.labels(model) for metric in metrics))


@dataclass(frozen=True, slots=True)
class _Batches:
    """What is observed of one model's batches."""

    queue_s: Histogram
    device_s: Histogram
    size: Histogram
    tokens: Histogram
    padding: Histogram


class _Waiting(Collector):
    def __init__(self, statistics: Callable[[], BatcherStatistics | None], ready: Callable[[], bool]) -> None:
        self._statistics = statistics
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        entries = GaugeMetricFamily("headrace_waiting_entries", "Inputs that wait", labels=["model"])
        tokens = GaugeMetricFamily("headrace_waiting_tokens", "Tokens that wait", labels=["model"])
        oldest = GaugeMetricFamily("headrace_oldest_waiting_seconds", "Age of the oldest that waits", labels=["model"])
        error = GaugeMetricFamily(
            "headrace_prediction_error_ratio", "Of predicted batch seconds", labels=["model", "quantile"]
        )
        cost = GaugeMetricFamily("headrace_cost_seconds", "Fitted, for one more of each", labels=["model", "of"])
        reused = CounterMetricFamily("headrace_reused", "Inputs that needed no work of their own", labels=["how"])
        kept = GaugeMetricFamily("headrace_kept_bytes", "Finished answers that are kept")
        statistics = self._statistics()
        if statistics is None:
            return
        reused.add_metric(["joined"], statistics.reuse.joined)
        reused.add_metric(["kept"], statistics.reuse.kept)
        kept.add_metric([], statistics.reuse.kept_bytes)
        for lane in statistics.scheduler.lanes:
            for of, seconds in zip(_COST_OF, astuple(lane.curve), strict=True):
                cost.add_metric([lane.model, of], seconds)
            error.add_metric([lane.model, "0.5"], lane.error_p50)
            error.add_metric([lane.model, "0.95"], lane.error_p95)
            entries.add_metric([lane.model], lane.entries)
            tokens.add_metric([lane.model], lane.tokens)
            oldest.add_metric([lane.model], lane.oldest_s)
        yield from (entries, tokens, oldest, cost, error, reused, kept)
        if self._ready():
            yield from _demand(statistics.demand)


def _demand(demand: Demand) -> Iterator[Metric]:
    """Only of a replica that takes calls: one that starts or drains would pull the sum down, or stay in it."""
    gauges = {
        "demand_ratio": ("The larger of offered and in flight: what to scale on, added up", demand.ratio),
        "offered_ratio": ("Work asked for, refused work included, per capacity", demand.offered),
        "in_flight_ratio": ("Work that waits and runs, per capacity and latency target", demand.in_flight),
        "capacity_tokens_per_second": ("Of texts like the last ones, in full batches", demand.tokens_per_s),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(f"headrace_{name}", text, value=value)


def _request_id(scope: Scope) -> str:
    told = header(scope, b"x-request-id")
    return told if told is not None and _SAFE_ID.fullmatch(told) else f"{_PROCESS}{next(_numbers):016x}"


def _log_line(scope: Scope, exchange: Exchange) -> None:
    """Write the line; the record is made here, since `info` would walk the stack for a file that nobody reads."""
    if _access.isEnabledFor(logging.INFO):
        _access.handle(CallRecord(scope["method"], exchange))


class CallRecord(logging.LogRecord):
    """The line of one exchange, with what is known of it for who writes more than the line."""

    def __init__(self, method: str, exchange: Exchange) -> None:
        """Take an exchange that has ended."""
        self.method = method
        self.exchange = exchange
        self.ms = (time.monotonic() - exchange.started) * 1000
        told = (
            method,
            exchange.route,
            exchange.status,
            self.ms,
            exchange.request_id,
            exchange.model or "-",
            exchange.items,
            exchange.tokens,
            _tail(exchange),
        )
        super().__init__(_access.name, logging.INFO, __file__, 0, _LINE, told, None)


def _tail(exchange: Exchange) -> str:
    """What only some lines have; the key's id opens nothing."""
    code = f" code={exchange.code}" if exchange.code else ""
    who = f" caller={exchange.caller.name} key={exchange.caller.key or '-'}" if exchange.caller else ""
    return code + who
