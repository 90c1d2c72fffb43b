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
    from inference.labels import ranked, sigmoid, softmax
    from inference.profile import Profile
    from inference.request import Dispatched, Report
    from inference.spans import Aggregation, Span
    from inference.task import Ability, ProblemType, Task
    from inference.tokenizer import Text, Token, TokenizerFile, Truncation

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
    "labels": ("ranked", "sigmoid", "softmax"),
    "spans": ("Aggregation", "Span"),
    "task": ("Ability", "ProblemType", "Task"),
    "tokenizer": ("Text", "Token", "TokenizerFile", "Truncation"),
    "config": ("DeviceConfig", "EngineConfig", "Limits", "ModelSource", "default_cache_dir"),
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
    "request": ("Dispatched", "Report"),
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
    "DeadlineExceeded",
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
    "Scores",
    "ServedModel",
    "Similarity",
    "Span",
    "Sparse",
    "SparseVector",
    "Tag",
    "Task",
    "Terms",
    "Text",
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
    "sigmoid",
    "softmax",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'inference' has no attribute {name!r}")
    return getattr(import_module(f"inference.{_HOME_OF[name]}"), name)
