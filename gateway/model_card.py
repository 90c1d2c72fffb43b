"""What the Open Inference Protocol tells of a model: metadata, Triton's configuration, and what its calls cost."""

from typing import TYPE_CHECKING, Any, Final

from gateway.kserve_forms import ModelMetadata, TensorMetadata
from gateway.ledger import Account
from gateway.signatures import Slot, signature
from gateway.telemetry import Metrics

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

_PLATFORM: Final = "headrace"
_TYPES: Final = {"BYTES": "TYPE_STRING", "INT32": "TYPE_INT32", "INT64": "TYPE_INT64", "FP32": "TYPE_FP32"}


def metadata(model: "ServedModel") -> ModelMetadata:
    """Return what a model takes and gives."""
    told = signature(model)
    return ModelMetadata(
        name=model.name,
        versions=[str(model.version)],
        platform=_PLATFORM,
        inputs=[_tensor(slot) for slot in told.inputs],
        outputs=[_tensor(slot) for slot in told.outputs],
    )


def config(model: "ServedModel", max_items: int, levels: int, default_level: int) -> dict[str, Any]:
    """
    Return a model as Triton's configuration has it; `max_items` inputs a call, priorities from 1 to `levels`.

    Where rows of outputs are not rows of inputs, there is no batch dimension: `max_batch_size` is 0.
    """
    told = signature(model)
    first = 1 if told.rowwise else 0
    return {
        "name": model.name,
        "platform": _PLATFORM,
        "backend": _PLATFORM,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_items if told.rowwise else 0,
        "input": [{**_typed(slot, first), "optional": slot.optional} for slot in told.inputs],
        "output": [_typed(slot, first) for slot in told.outputs],
        "dynamic_batching": {
            "max_queue_delay_microseconds": 0,
            "priority_levels": levels,
            "default_priority_level": default_level,
        },
        "parameters": {
            "task": {"string_value": model.task},
            "max_length": {"string_value": str(model.max_length)},
            "revision": {"string_value": model.revision or ""},
        },
    }


def statistics(model: "ServedModel", account: Account, metrics: Metrics) -> dict[str, Any]:
    """
    Return what a model has done.

    Inferences and executions are the device's, whoever asked; the times are of calls in this protocol.
    """
    return {
        "name": model.name,
        "version": str(model.version),
        "last_inference": account.last_ms,
        "inference_count": round(metrics.sample("headrace_batch_size_sum", model=model.name)),
        "execution_count": round(metrics.sample("headrace_batch_size_count", model=model.name)),
        "inference_stats": account.told(),
        "batch_stats": [],
    }


def _tensor(slot: Slot) -> TensorMetadata:
    return TensorMetadata(name=slot.name, datatype=slot.datatype, shape=list(slot.shape))


def _typed(slot: Slot, first: int) -> dict[str, Any]:
    return {"name": slot.name, "data_type": _TYPES[slot.datatype], "dims": list(slot.shape[first:])}
