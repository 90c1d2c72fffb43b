"""
One table: what went wrong -> status, code and advice. Each dialect dresses a Fault in its own shape.

The nearest class in an error's ancestry wins. Texts of faults on our side never reach a caller.
"""

import math
from dataclasses import dataclass
from typing import Final

from inference import (
    DeadlineExceeded,
    DeviceLost,
    InvalidRequest,
    Overloaded,
    RuntimeFailed,
    Unavailable,
    UnknownModel,
)

_MAX_MESSAGE: Final = 500  # characters; some quote what the caller sent


class HttpFault(Exception):
    """The exchange itself is at fault, whatever it asks for."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        """Take the answer's status and code, and a message for the caller."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field


class ClientGone(Exception):
    """The caller closed the connection; there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a caller is told, in no dialect."""

    status: int
    code: str
    message: str
    field: str | None = None
    retry_after_s: float | None = None
    reason: str = ""  # of a refusal, in the engine's words; never the caller's

    @property
    def sentence(self) -> str:
        """Return the message, its field before it, for dialects that have one place for both."""
        return f"{self.field}: {self.message}" if self.field else self.message

    def headers(self) -> dict[str, str]:
        """Return when to come back: in whole seconds, and in milliseconds for clients that read them."""
        if self.retry_after_s is None:
            return {}
        milliseconds = max(1, math.ceil(self.retry_after_s * 1000))
        return {"retry-after": str(math.ceil(milliseconds / 1000)), "retry-after-ms": str(milliseconds)}


@dataclass(frozen=True, slots=True)
class _Line:
    status: int
    code: str
    message: str | None = None  # None: the error's own words


_INTERNAL = _Line(500, "internal_error", "something went wrong here; the request id tells us what")

_TABLE: dict[type[BaseException], _Line] = {
    InvalidRequest: _Line(400, "invalid_request"),
    UnknownModel: _Line(404, "model_not_found"),
    Overloaded: _Line(429, "overloaded"),
    Unavailable: _Line(503, "unavailable"),
    DeviceLost: _Line(503, "unavailable", "this replica has lost its device"),
    DeadlineExceeded: _Line(504, "deadline_exceeded"),
    RuntimeFailed: _Line(500, "model_failed", "the model failed on this input"),
    ClientGone: _Line(499, "client_closed_request", "the caller closed the connection"),
}


def describe(error: BaseException) -> Fault:
    """Look an error up in the table."""
    if isinstance(error, HttpFault):
        return Fault(error.status, error.code, str(error)[:_MAX_MESSAGE], error.field)
    line = next((_TABLE[ancestor] for ancestor in type(error).__mro__ if ancestor in _TABLE), _INTERNAL)
    retry_after_s = getattr(error, "retry_after_s", 1.0 if line.status == 503 else None)  # noqa: PLR2004
    message = (line.message or str(error))[:_MAX_MESSAGE]
    reason = getattr(error, "reason", "").replace(" ", "_")
    return Fault(line.status, line.code, message, getattr(error, "field", None), retry_after_s, reason)
