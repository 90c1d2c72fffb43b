"""A checkpoint's weights on a device, in the class that its task needs."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from inference.checkpoint import Checkpoint, Dense
from inference.device import Device, model_edge
from inference.errors import CannotServe, InferenceError

Model = TypeVar("Model", bound=torch.nn.Module)
Alone = Callable[[], AbstractContextManager[None]]
"""A context in which no other model runs."""

_UNUSED: Final = ("pooler.",)  # no part of the hidden states


def load_weights(
    checkpoint: Checkpoint, device: Device, dtype: torch.dtype, alone: Alone = nullcontext
) -> PreTrainedModel:
    """
    Load from safetensors, without remote code; raises CannotServe when a weight is missing.

    Transformers builds a model with its dtype as torch's default, in all threads: another dtype is loaded `alone`.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with model_edge(), nullcontext() if dtype == torch.get_default_dtype() else alone():
            model, info = _class(checkpoint).from_pretrained(
                checkpoint.path,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
            model = owned(model.eval().to(device.place))
    except InferenceError as err:
        raise CannotServe(f"model {checkpoint.name}: cannot load its weights from {checkpoint.path}: {err}") from err
    unused = _UNUSED if checkpoint.task == "embed" else ()
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(unused))
    if missing:
        raise CannotServe(f"model {checkpoint.name}: the weights lack {missing[0]} and {len(missing) - 1} more")
    loaded: PreTrainedModel = model
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = 0  # heads that look for the last token refuse to run without one
    return loaded


def load_dense(checkpoint: Checkpoint, device: Device) -> torch.nn.Sequential:
    """Load the layers behind the pooling, in float32; none is the identity. Raises CannotServe."""
    layers = [_layer(checkpoint.name, dense) for dense in checkpoint.dense]
    return owned(torch.nn.Sequential(*layers).eval().to(device.place))


def owned(model: Model) -> Model:
    """Copy what still lies in the files: one that is written over would change answers, one cut off end the process."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    return model


def _layer(name: str, dense: Dense) -> torch.nn.Sequential:
    with torch.device("meta"):
        linear = torch.nn.Linear(dense.inputs, dense.outputs, dense.bias)
    file = dense.folder / "model.safetensors"
    try:
        weights = {key.removeprefix("linear."): weight.float() for key, weight in load_file(file).items()}
        linear.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError, RuntimeError) as err:
        reason = " ".join(str(err).split())
        raise CannotServe(f"model {name}: {file} is not the layer that its config.json describes ({reason})") from err
    return torch.nn.Sequential(linear, getattr(torch.nn, dense.activation)())


def _class(checkpoint: Checkpoint) -> Any:
    match checkpoint.task:
        case "embed" if checkpoint.architecture.endswith("EncoderModel"):
            return AutoModelForTextEncoding  # the encoder of a model that has a decoder too
        case "embed":
            return AutoModel
        case "rerank" if checkpoint.causal:
            return AutoModelForCausalLM
        case "rerank" | "classify":
            return AutoModelForSequenceClassification
        case "token-classify":
            return AutoModelForTokenClassification
        case "fill-mask" | "sparse":
            return AutoModelForMaskedLM
