"""
What can go wrong, as data. No status codes here: each dialect of the gateway has its own.

    InferenceError
    ├── InvalidRequest        the caller must change the request
    │   └── UnknownModel      no model of that name is served
    ├── Overloaded            refused at the door; try again after `retry_after_s`
    ├── Unavailable           not serving now (starting, draining, device lost)
    ├── DeadlineExceeded      the answer would come, or came, too late
    ├── RuntimeFailed         the model failed on this input
    │   └── OutOfMemory       this batch did not fit the device
    ├── DeviceLost            the device is gone, nothing runs until the process is replaced
    └── CannotServe           the model or the device cannot be used as configured
        └── CannotFetch       the model is not here, and not to be had now
"""

from dataclasses import dataclass


class InferenceError(Exception):
    """The root: everything `inference` raises on purpose."""


@dataclass
class InvalidRequest(InferenceError):
    """The caller must change the request; `field` is a path such as `input[3]`."""

    message: str
    field: str | None = None

    def __str__(self) -> str:
        """Return the message, as the caller will read it."""
        return self.message


class UnknownModel(InvalidRequest):
    """No model of that name is served."""


@dataclass
class Overloaded(InferenceError):
    """Refused before it cost device time; seconds until it is worth another try."""

    reason: str
    retry_after_s: float

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason


@dataclass
class Unavailable(InferenceError):
    """The engine does not serve now; another replica may."""

    reason: str
    retry_after_s: float = 1.0

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason


class DeadlineExceeded(InferenceError):
    """Accepted, but the deadline passed before the answer."""


class RuntimeFailed(InferenceError):
    """The model failed on this input."""


class OutOfMemory(RuntimeFailed):
    """The batch did not fit into the device's memory."""


class DeviceLost(InferenceError):
    """The device answers no more."""


class CannotServe(InferenceError):
    """The model or the device cannot be used as configured."""


class CannotFetch(CannotServe):
    """The model is not on this machine and cannot be had now; it is not the model's fault."""
