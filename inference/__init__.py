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
    from inference.batcher import BatcherStatistics
    from inference.card import Card, Loaded, read_card
    from inference.checkpoint import Checkpoint, open_checkpoints
    from inference.client import Client
    from inference.config import (
        ControlConfig,
        DeviceConfig,
        EngineConfig,
        ForModel,
        Limits,
        ModelSource,
        default_cache_dir,
        told_for,
    )
    from inference.cost import CostModel
    from inference.demand import Demand, DemandMeter
    from inference.device_thread import DeviceStatistics
    from inference.engine import Engine
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
    from inference.fetch import DEFAULT_MODEL
    from inference.golden import Drift, compare, read_golden, read_inputs, record, write_golden
    from inference.heap import share_one_heap
    from inference.host import Host
    from inference.labels import ranked, sigmoid, softmax
    from inference.lane import Lane
    from inference.line import Line
    from inference.loading import Progress
    from inference.model import ServedModel
    from inference.profile import Profile
    from inference.remote import RemoteEngine
    from inference.repository import ModelState
    from inference.request import Dispatched, Report, Shape
    from inference.scheduler import Scheduler
    from inference.spans import Aggregation, Span
    from inference.task import TASKS, Ability, ProblemType, Task
    from inference.tokenizer import Text, Token, TokenizerFile, Truncation

_HOMES = {
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
    "batcher": ("BatcherStatistics",),
    "card": (
        "Card",
        "Loaded",
        "read_card",
    ),
    "checkpoint": (
        "Checkpoint",
        "open_checkpoints",
    ),
    "client": ("Client",),
    "config": (
        "ControlConfig",
        "DeviceConfig",
        "EngineConfig",
        "ForModel",
        "Limits",
        "ModelSource",
        "default_cache_dir",
        "told_for",
    ),
    "cost": ("CostModel",),
    "demand": (
        "Demand",
        "DemandMeter",
    ),
    "device_thread": ("DeviceStatistics",),
    "engine": ("Engine",),
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
    "fetch": ("DEFAULT_MODEL",),
    "golden": (
        "Drift",
        "compare",
        "read_golden",
        "read_inputs",
        "record",
        "write_golden",
    ),
    "heap": ("share_one_heap",),
    "host": ("Host",),
    "labels": (
        "ranked",
        "sigmoid",
        "softmax",
    ),
    "lane": ("Lane",),
    "line": ("Line",),
    "loading": ("Progress",),
    "model": ("ServedModel",),
    "profile": ("Profile",),
    "remote": ("RemoteEngine",),
    "repository": ("ModelState",),
    "request": (
        "Dispatched",
        "Report",
        "Shape",
    ),
    "scheduler": ("Scheduler",),
    "spans": (
        "Aggregation",
        "Span",
    ),
    "task": (
        "Ability",
        "ProblemType",
        "TASKS",
        "Task",
    ),
    "tokenizer": (
        "Text",
        "Token",
        "TokenizerFile",
        "Truncation",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "DEFAULT_MODEL",
    "TASKS",
    "Ability",
    "Aggregation",
    "Answer",
    "BatcherStatistics",
    "CallTimings",
    "CannotServe",
    "Card",
    "Checkpoint",
    "Classify",
    "Client",
    "ControlConfig",
    "CostModel",
    "DeadlineExceeded",
    "Demand",
    "DemandMeter",
    "DeviceConfig",
    "DeviceLost",
    "DeviceStatistics",
    "Dispatched",
    "Drift",
    "Embed",
    "Engine",
    "EngineConfig",
    "Fill",
    "FillMask",
    "ForModel",
    "Host",
    "InferenceError",
    "InputType",
    "Inputs",
    "InvalidRequest",
    "Item",
    "Lane",
    "Limits",
    "Line",
    "Loaded",
    "ModelSource",
    "ModelState",
    "OutOfMemory",
    "Overloaded",
    "ProblemType",
    "Profile",
    "Progress",
    "Relevance",
    "RemoteEngine",
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
    "Text",
    "Token",
    "TokenizerFile",
    "Truncation",
    "Unavailable",
    "UnknownModel",
    "ZeroShot",
    "compare",
    "default_cache_dir",
    "open_checkpoints",
    "ranked",
    "read_card",
    "read_golden",
    "read_inputs",
    "record",
    "share_one_heap",
    "sigmoid",
    "softmax",
    "told_for",
    "write_golden",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'inference' has no attribute {name!r}")
    return getattr(import_module(f"inference.{_HOME_OF[name]}"), name)
