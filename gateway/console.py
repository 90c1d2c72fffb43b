"""
The page at /console: what this process does now, and a form that tries its models.

Static files and one document of plain numbers; rates and percentiles are the page's own work. It has no session: it
shows what the metrics show, and calls as any caller would, with the key that is typed into it.
"""

import asyncio
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import __version__
from gateway.lifecycle import Lifecycle
from gateway.telemetry import Metrics, exchange_of
from inference import Client

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

_SHOWN: Final = frozenset(
    f"headrace_{name}"
    for name in (
        "requests",
        "refusals",
        "in_flight",
        "request_seconds",
        "tokenise_seconds",
        "queue_seconds",
        "device_seconds",
        "batch_size",
        "batch_tokens",
        "padding_ratio",
        "waiting_entries",
        "oldest_waiting_seconds",
        "demand_ratio",
    )
)
FILES: Final = {
    "/console": ("console.html", "text/html; charset=utf-8"),
    "/console/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/console/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/console/key.js": ("key.js", "text/javascript; charset=utf-8"),
    "/console/try.js": ("try.js", "text/javascript; charset=utf-8"),
    "/console/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS: Final = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Console:
    """The routes of the page."""

    def __init__(self, client: Client, lifecycle: Lifecycle, metrics: Metrics, latency_target_s: float) -> None:
        """Take what it shows."""
        self._client = client
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._latency_target_s = latency_target_s

    def routes(self) -> list[Route]:
        """Return plain Starlette routes."""
        return [*(_file(path, *told) for path, told in FILES.items()), Route("/console/data", self._data)]

    async def _data(self, request: Request) -> Response:
        exchange_of(request.scope).route = "probe"  # asked for every second: neither a line nor a span
        content = await asyncio.to_thread(self._read)  # reading all samples takes milliseconds
        return Response(content, headers=_HEADERS, media_type="application/json")

    def _read(self) -> bytes:
        statistics = self._client.statistics()
        return orjson.dumps(
            {
                "version": __version__,
                "state": self._lifecycle.state if self._lifecycle.healthy else "device lost",
                "time_s": time.monotonic(),
                "latency_target_s": self._latency_target_s,
                "models": [_model(model) for model in self._client.models.values()],
                "devices": [] if statistics is None else statistics.devices,
                "samples": self._samples(),
            }
        )

    def _samples(self) -> dict[str, list[Sequence[Any]]]:
        """By their name: labels and value of each."""
        found: dict[str, list[Sequence[Any]]] = {}
        for family in self._metrics.registry.collect():
            for sample in family.samples if family.name in _SHOWN else ():
                if not sample.name.endswith("_created"):
                    found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found


def _model(model: "ServedModel") -> dict[str, Any]:
    return {
        "name": model.name,
        "task": model.task,
        "abilities": model.abilities,
        "device": model.device,
        "dtype": model.dtype,
        "max_length": model.max_length,
        "hidden_size": model.hidden_size,
        "padded_because": model.padded_because,
        "mask": model.tokenizer.mask,
    }


def _file(path: str, name: str, kind: str) -> Route:
    content = (files("gateway") / "page" / name).read_bytes()

    async def show(request: Request) -> Response:
        exchange_of(request.scope).route = path
        return Response(content, headers={**_HEADERS, "content-type": kind})

    return Route(path, show)
