"""
Requests in, results out: the model side of Headrace. Never sees HTTP.

The front door: every public name is loaded when it is first used (PEP 562), so that a process which
only speaks HTTP never imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference.batcher import BatcherStatistics, DeviceStatistics
    from inference.client import CallTimings, Client, Embed, Embeddings, Inputs
    from inference.config import DeviceConfig, EngineConfig, Limits, ModelSource, default_cache_dir
    from inference.cost import CostModel
    from inference.demand import Demand, DemandMeter
    from inference.engine import Engine, Progress, ServedModel
    from inference.errors import (
        CannotServe,
        DeadlineExceeded,
        DeviceLost,
        InferenceError,
        InvalidRequest,
        OutOfMemory,
        Overloaded,
        RuntimeFailed,
        Unavailable,
        UnknownModel,
    )
    from inference.heap import share_one_heap
    from inference.profile import Profile
    from inference.request import Dispatched, Report, Shape
    from inference.scheduler import Lane, Scheduler

_HOMES = {
    "batcher": ("BatcherStatistics", "DeviceStatistics"),
    "client": ("CallTimings", "Client", "Embed", "Embeddings", "Inputs"),
    "config": ("DeviceConfig", "EngineConfig", "Limits", "ModelSource", "default_cache_dir"),
    "cost": ("CostModel",),
    "demand": ("Demand", "DemandMeter"),
    "engine": ("Engine", "Progress", "ServedModel"),
    "errors": (
        "CannotServe",
        "DeadlineExceeded",
        "DeviceLost",
        "InferenceError",
        "InvalidRequest",
        "OutOfMemory",
        "Overloaded",
        "RuntimeFailed",
        "Unavailable",
        "UnknownModel",
    ),
    "heap": ("share_one_heap",),
    "profile": ("Profile",),
    "request": ("Dispatched", "Report", "Shape"),
    "scheduler": ("Lane", "Scheduler"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BatcherStatistics",
    "CallTimings",
    "CannotServe",
    "Client",
    "CostModel",
    "DeadlineExceeded",
    "Demand",
    "DemandMeter",
    "DeviceConfig",
    "DeviceLost",
    "DeviceStatistics",
    "Dispatched",
    "Embed",
    "Embeddings",
    "Engine",
    "EngineConfig",
    "InferenceError",
    "Inputs",
    "InvalidRequest",
    "Lane",
    "Limits",
    "ModelSource",
    "OutOfMemory",
    "Overloaded",
    "Profile",
    "Progress",
    "Report",
    "RuntimeFailed",
    "Scheduler",
    "ServedModel",
    "Shape",
    "Unavailable",
    "UnknownModel",
    "default_cache_dir",
    "share_one_heap",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'inference' has no attribute {name!r}")
    return getattr(import_module(f"inference.{_HOME_OF[name]}"), name)
