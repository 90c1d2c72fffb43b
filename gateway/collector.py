"""Whether traces go anywhere: opens what draws them if there is an endpoint, since its library is optional."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gateway.config import TraceConfig
from gateway.mistakes import Mistake, SettingsError

if TYPE_CHECKING:
    from gateway.tracing import Tracer


def check(trace: TraceConfig) -> None:
    """Raise SettingsError if traces are asked for and their library is missing."""
    if trace.endpoint:
        _library()


def open_tracer(trace: TraceConfig) -> "Tracer | None":
    """Return what draws the spans of this process, or None; raises SettingsError."""
    if not trace.endpoint:
        return None
    tracing = _library()
    tracer: Tracer = tracing.Tracer(trace, tracing.exporter(trace.endpoint))
    return tracer


def _library() -> Any:
    try:
        return import_module("gateway.tracing")
    except ImportError as err:
        fix = "pip install 'headrace[tracing]', or leave it out"
        raise SettingsError((Mistake("otlp-endpoint", f"traces need {err.name}, which is missing", fix),)) from None
