"""
How log lines look: for people, or as JSON for machines.

No line holds what a caller sent. An exception is told by its classes and places, since its message may quote an input.
"""

import asyncio
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, TextIO

from gateway.config import LogConfig
from gateway.telemetry import CallRecord, Exchange
from inference import CallTimings

_HELD_S: Final = 0.1
_LINE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def start(log: LogConfig, out: TextIO = sys.stderr) -> None:
    """Write this process's log from now on."""
    lines = Lines(out)
    lines.setFormatter(formatter(log.format))
    logging.basicConfig(level=log.level.upper(), handlers=[lines])
    logging.getLogger("uvicorn").setLevel("ERROR")  # it warns of every connection that is not HTTP
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells them


class Lines(logging.StreamHandler[TextIO]):
    """
    Writes the lines of calls together, some ten times a second, and any other line at once and in its order.

    A write for each costs a call more than its line does. Without a running loop nothing is held.
    """

    def __init__(self, out: TextIO) -> None:
        """Take where lines go."""
        super().__init__(out)
        self._held: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or hold it until others have come."""
        loop = _running_loop() if isinstance(record, CallRecord) else None
        if loop is None:
            self.flush()
            super().emit(record)
            return
        if not self._held:
            loop.call_later(_HELD_S, self.flush)
        self._held.append(self.format(record))

    def flush(self) -> None:
        """Write what is held; where nothing can be written any more, nobody can be told."""
        with self.lock or nullcontext(), suppress(OSError):
            held, self._held = self._held, []
            if held:
                self.stream.write(self.terminator.join([*held, ""]))
            super().flush()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def formatter(name: str) -> logging.Formatter:
    """Return what writes `console` or `json`."""
    return _JsonLines() if name == "json" else _Lines(_LINE)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record, CallRecord):  # many a second, and none has an exception
            return f"{self.formatTime(record)} {record.levelname} {record.name}: {record.getMessage()}"
        record.exc_text = None  # what another formatter left there has the message
        line = super().format(record)
        record.exc_text = None
        return line

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return f"{_second(int(record.created))},{record.msecs:03.0f}"

    def formatException(
        self, ei: "tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]"
    ) -> str:
        return "\n".join(_causes(ei[1]))


@lru_cache(maxsize=1)
def _second(moment: int) -> str:
    """Write a second of local time as logging does: the lines of calls come many a second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


class _JsonLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record, CallRecord):
            told |= {"message": "call", "method": record.method, "ms": round(record.ms, 3), **_call(record.exchange)}
        else:
            told["message"] = record.getMessage()
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)


def _call(exchange: Exchange) -> dict[str, Any]:
    """What is known of an exchange, but for what is empty."""
    told: dict[str, Any] = {
        "id": exchange.request_id,
        "route": exchange.route,
        "status": exchange.status,
        "outcome": exchange.outcome,
        "code": exchange.code,
        "reason": exchange.reason,
        "model": exchange.model,
        "items": exchange.items,
        "tokens": exchange.tokens,
        "trace_id": exchange.trace,
    }
    if exchange.timings is not None:
        told |= _timings(exchange.timings)
    return {name: value for name, value in told.items() if value != ""}


def _timings(timings: CallTimings) -> dict[str, Any]:
    told = {
        "tokenise_ms": round(timings.tokenise_s * 1000, 3),
        "queue_ms": round(timings.queue_s * 1000, 3),
        "device_ms": round(timings.device_s * 1000, 3),
    }
    if timings.batch is not None:
        told |= {"batch": timings.batch.number, "batch_size": timings.batch.sequences}
    return told


def _causes(error: BaseException | None) -> Iterator[str]:
    """An exception and what it came of, the first one first: places and classes, no messages."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for each in reversed(chain):
        kind = type(each)
        yield f"{''.join(traceback.format_tb(each.__traceback__))}{kind.__module__}.{kind.__qualname__}"
