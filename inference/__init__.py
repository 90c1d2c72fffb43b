"""
Requests in, results out: the model side of Headrace. Never sees HTTP.

The front door: every public name is loaded when it is first used (PEP 562), so that a process which
only speaks HTTP never imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference.asks import (
        Answer,
        CallTimings,
        Classify,
        Embed,
        Fill,
        FillMask,
        Inputs,
        InputType,
        Item,
        Relevance,
        Rerank,
        Scores,
        Similarity,
        Sparse,
        SparseVector,
        Tag,
        Terms,
        ZeroShot,
    )
    from inference.batcher import BatcherStatistics, DeviceStatistics
    from inference.checkpoint import Checkpoint, open_checkpoints
    from inference.client import Client
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
    from inference.labels import ranked
    from inference.lane import Lane
    from inference.profile import Profile
    from inference.request import Dispatched, Report, Shape
    from inference.scheduler import Scheduler
    from inference.spans import Aggregation, Span
    from inference.task import Ability, ProblemType, Task
    from inference.tokenizer import Token, TokenizerFile, Truncation

_HOMES = {
    "batcher": ("BatcherStatistics", "DeviceStatistics"),
    "asks": (
        "Answer",
        "CallTimings",
        "Classify",
        "Embed",
        "Fill",
        "FillMask",
        "InputType",
        "Inputs",
        "Item",
        "Relevance",
        "Rerank",
        "Scores",
        "Similarity",
        "Sparse",
        "SparseVector",
        "Tag",
        "Terms",
        "ZeroShot",
    ),
    "checkpoint": ("Checkpoint", "open_checkpoints"),
    "client": ("Client",),
    "labels": ("ranked",),
    "lane": ("Lane",),
    "spans": ("Aggregation", "Span"),
    "task": ("Ability", "ProblemType", "Task"),
    "tokenizer": ("Token", "TokenizerFile", "Truncation"),
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
    "scheduler": ("Scheduler",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Ability",
    "Aggregation",
    "Answer",
    "BatcherStatistics",
    "CallTimings",
    "CannotServe",
    "Checkpoint",
    "Classify",
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
    "Engine",
    "EngineConfig",
    "Fill",
    "FillMask",
    "InferenceError",
    "InputType",
    "Inputs",
    "InvalidRequest",
    "Item",
    "Lane",
    "Limits",
    "ModelSource",
    "OutOfMemory",
    "Overloaded",
    "ProblemType",
    "Profile",
    "Progress",
    "Relevance",
    "Report",
    "Rerank",
    "RuntimeFailed",
    "Scheduler",
    "Scores",
    "ServedModel",
    "Shape",
    "Similarity",
    "Span",
    "Sparse",
    "SparseVector",
    "Tag",
    "Task",
    "Terms",
    "Token",
    "TokenizerFile",
    "Truncation",
    "Unavailable",
    "UnknownModel",
    "ZeroShot",
    "default_cache_dir",
    "open_checkpoints",
    "ranked",
    "share_one_heap",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'inference' has no attribute {name!r}")
    return getattr(import_module(f"inference.{_HOME_OF[name]}"), name)
