"""
The audit log, a stream of its own: a JSON line for whatever is refused for want of a key or a right, and for whatever
an admin does. It has the ids of keys and the subjects of tokens, never a key or a token, and no input.
"""

import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Final

import msgspec
from starlette.types import Scope

from gateway.allowance import Bucket
from gateway.telemetry import Exchange

_LINES_PER_S: Final = 20.0  # of callers without a key: a flood of them must not fill the disk
_LONGEST: Final = 200  # characters of a path

_log = logging.getLogger("headrace.audit")


class Unwritable(Exception):
    """The audit log cannot be kept; one line says why."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who wanted what, and what came of it."""

    time: datetime
    action: str
    outcome: str
    key: str = ""
    subject: str = ""  # of a token that was good
    caller: str = ""
    address: str = ""
    request_id: str = ""
    left_out: int = 0  # lines like this one, since the last
    why: str = ""  # a token was not good


class Audit:
    """Writes the lines."""

    def __init__(self, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        """Take both clocks: one for the lines, one for how many there may be."""
        self._now = now
        self._clock = clock
        self._strangers = Bucket(_LINES_PER_S, clock())
        self._left_out = 0

    def refused(self, scope: Scope, exchange: Exchange, key: str, why: str = "") -> None:
        """Note a call without a key that opens; `key` is the id of what it showed, `why` what is wrong with a token."""
        if self._strangers.level(self._clock()) < 1:
            self._left_out += 1
            return
        self._strangers.spend(1, self._clock())
        left_out, self._left_out = self._left_out, 0
        at, address, request_id = self._moment(), _address(scope), exchange.request_id
        self._write(Line(at, _action(scope), exchange.code, key, "", "", address, request_id, left_out, why))

    def ended(self, scope: Scope, exchange: Exchange) -> None:
        """Note what became of a call that was an admin's, or was not its caller's right."""
        who = exchange.caller
        key, subject, name = ("", "", "") if who is None else (who.key, who.subject, who.name)
        action, outcome = exchange.action or _action(scope), exchange.code or exchange.outcome
        self._write(Line(self._moment(), action, outcome, key, subject, name, _address(scope), exchange.request_id))

    def reloaded(self, keys: int) -> None:
        """Note that the file of keys was read again."""
        self._write(Line(self._moment(), "read keys", f"{keys} keys"))

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)

    def _write(self, line: Line) -> None:
        _log.info("%s", msgspec.json.encode(line).decode())


def open_stream(path: Path | None) -> None:
    """Send the audit log into a file, which may be moved away under it, or else to stdout; raises Unwritable."""
    try:
        stream = logging.StreamHandler(sys.stdout) if path is None else WatchedFileHandler(path, encoding="utf-8")
    except OSError as err:
        raise Unwritable(f"cannot write the audit log to {path}: {err.strerror}") from None
    for former in _log.handlers:
        former.close()
    stream.setFormatter(logging.Formatter("%(message)s"))
    _log.handlers = [stream]
    _log.propagate = False
    _log.setLevel(logging.INFO)


def _action(scope: Scope) -> str:
    return f"{scope['method']} {scope['path'][:_LONGEST]}"


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""
