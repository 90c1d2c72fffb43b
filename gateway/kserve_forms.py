"""What bodies of the Open Inference Protocol look like: the types that parse them and document them."""

from typing import Annotated, Any, Literal

import msgspec

from gateway.tensors import InputTensor, Name, OutputTensor, Size
from inference import Aggregation, InputType, Task


class WantedParameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How an output is wanted: as bytes behind the JSON, or as its best classes."""

    binary_data: bool | None = None
    classification: Annotated[int, msgspec.Meta(ge=1)] | None = None


class WantedOutput(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An output that is asked for; all are given where none is."""

    name: Name
    parameters: WantedParameters | None = None


class InferBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /v2/models/{model}/infer takes; the path says which model is meant, whatever `model_name` says."""

    inputs: list[InputTensor]
    outputs: list[WantedOutput] | None = None
    id: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    parameters: dict[str, Any] | None = None  # as PARAMETERS has them for the model's task
    model_name: str | None = None
    model_version: str | None = None


class Parameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What may be said of a call to any model: `timeout` in microseconds, `priority` 1 first; 0 is the default."""

    timeout: Size = 0
    priority: Size = 0
    binary_data_output: bool = False
    truncate: bool = False


class EmbedParameters(Parameters, forbid_unknown_fields=True, kw_only=True):
    """More for embedders."""

    dimensions: int | None = None
    prompt_name: str | None = None
    input_type: InputType | None = None


class TagParameters(Parameters, forbid_unknown_fields=True, kw_only=True):
    """More for models that label tokens."""

    aggregation_strategy: Aggregation = "simple"


class FillParameters(Parameters, forbid_unknown_fields=True, kw_only=True):
    """More for models that fill masks."""

    top_k: int = 5


class RerankParameters(Parameters, forbid_unknown_fields=True, kw_only=True):
    """Nothing more."""


class ClassifyParameters(Parameters, forbid_unknown_fields=True, kw_only=True):
    """Nothing more."""


class SparseParameters(Parameters, forbid_unknown_fields=True, kw_only=True):
    """Nothing more."""


PARAMETERS: dict[Task, type[Parameters]] = {
    "embed": EmbedParameters,
    "rerank": RerankParameters,
    "classify": ClassifyParameters,
    "token-classify": TagParameters,
    "fill-mask": FillParameters,
    "sparse": SparseParameters,
}


class InferAnswer(msgspec.Struct, kw_only=True):
    """What it returns."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None


class IndexBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /v2/repository/index takes: whether to list only what is ready."""

    ready: bool = False


class ModelIndex(msgspec.Struct):
    """A model of the repository; no version: it was never loaded."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str


class LoadBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a load takes: `source`, as --model has it behind its name."""

    parameters: dict[str, str] | None = None


class UnloadParameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Triton's clients say it always; no model here depends on another."""

    unload_dependents: bool = False


class UnloadBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What an unload takes."""

    parameters: UnloadParameters | None = None


class Loaded(msgspec.Struct, kw_only=True):
    """Whether a model is loaded now, and its version, or its last one."""

    name: str
    load: bool
    version: str


class ServerMetadata(msgspec.Struct, kw_only=True):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct, kw_only=True):
    """An input or output; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, kw_only=True):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Models(msgspec.Struct, kw_only=True):
    """The names of the served models."""

    models: list[str]


class Live(msgspec.Struct, kw_only=True):
    """Whether this process works."""

    live: bool


class Ready(msgspec.Struct, kw_only=True):
    """Whether calls are taken."""

    ready: bool


class ModelReady(msgspec.Struct, kw_only=True):
    """Whether calls for a model are taken."""

    name: str
    ready: bool


class ErrorAnswer(msgspec.Struct, kw_only=True):
    """The body of every answer that is not 200."""

    error: str


def _below_model(path: str, operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"/v2/models/{{model}}{version}{path}": operation for version in ("", "/versions/{version}")}


OPERATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "/v2": {"get": {"summary": "Describe this server", "answer": ServerMetadata}},
    "/v2/health/live": {"get": {"summary": "Tell whether this process works", "answer": Live}},
    "/v2/health/ready": {"get": {"summary": "Tell whether calls are taken", "answer": Ready}},
    "/v2/models": {"get": {"summary": "List the served models", "answer": Models}},
    "/v2/models/stats": {"get": {"summary": "Tell what the calls of all models cost", "answer": dict[str, Any]}},
    **_below_model("", {"get": {"summary": "Describe a model", "answer": ModelMetadata}}),
    **_below_model("/infer", {"post": {"summary": "Run a model", "body": InferBody, "answer": InferAnswer}}),
    **_below_model("/ready", {"get": {"summary": "Tell whether a model takes calls", "answer": ModelReady}}),
    **_below_model("/config", {"get": {"summary": "Describe a model as Triton does", "answer": dict[str, Any]}}),
    **_below_model("/stats", {"get": {"summary": "Tell what a model's calls cost", "answer": dict[str, Any]}}),
    "/v2/repository/index": {
        "post": {"summary": "List the models and their states", "body": IndexBody, "answer": list[ModelIndex]}
    },
    "/v2/repository/models/{model}/load": {
        "post": {"summary": "Load a model, or replace it", "body": LoadBody, "answer": Loaded}
    },
    "/v2/repository/models/{model}/unload": {
        "post": {"summary": "Unload a model", "body": UnloadBody, "answer": Loaded}
    },
}
