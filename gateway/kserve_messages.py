"""
The protobuf messages of the Open Inference Protocol, to and from the types that its JSON has. Knows no gRPC.

So everything that can be wrong with a call is found, and told, by the same code in both forms.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import numpy as np
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message

from gateway.call import misfit
from gateway.errors import HttpFault
from gateway.kserve_forms import InferBody
from gateway.open_inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from gateway.question import Question, question_of, tensors_of
from gateway.tensors import Tensor, bytes_of, text_of
from inference import Answer, InvalidRequest

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

Kind = TypeVar("Kind", bound=Message)

_CONTENTS: Final = {
    "BYTES": "bytes_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
}


def read_message(kind: type[Kind], body: bytes) -> Kind:
    """Read a message; raises HttpFault."""
    try:
        return kind.FromString(body)
    except DecodeError:
        raise HttpFault(400, "invalid_message", f"the body is no {kind.DESCRIPTOR.name}") from None


def draw_message(kind: type[Kind], content: Any) -> Kind:
    """Return what the JSON form answers as a message."""
    return ParseDict(msgspec.to_builtins(content), kind())


def read_question(message: ModelInferRequest, model: "ServedModel") -> Question:
    """Read and check a call; raises HttpFault or InvalidRequest."""
    raws = message.raw_input_contents
    if raws and len(raws) != len(message.inputs):
        raise InvalidRequest(
            f"has {len(raws)} elements, and there are {len(message.inputs)} inputs", "raw_input_contents"
        )
    body = {
        "id": message.id or None,
        "parameters": {"binary_data_output": True, **_parameters(message.parameters)},
        "inputs": [_input(one, raws[index] if raws else None) for index, one in enumerate(message.inputs)],
        "outputs": [{"name": one.name, "parameters": _parameters(one.parameters)} for one in message.outputs],
    }
    try:
        return question_of(msgspec.convert(body, InferBody), b"".join(raws), model)
    except msgspec.ValidationError as err:
        raise misfit(err) from None


def draw_answer(made: Answer[Any], question: Question, model: "ServedModel") -> ModelInferResponse:
    """Return an answer; its tensors are raw, unless one of them is wanted otherwise: the protocol knows no mixture."""
    answer = ModelInferResponse(model_name=model.name, model_version=str(model.version), id=question.id or "")
    raw = all(wanted.binary for wanted in question.outputs)
    for tensor in tensors_of(made, question, model):
        drawn = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            answer.raw_output_contents.append(bytes_of(tensor))
        else:
            getattr(drawn.contents, _CONTENTS[tensor.datatype]).extend(_plain(tensor))
    return answer


def _input(told: ModelInferRequest.InferInputTensor, raw: bytes | None) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": told.name, "datatype": told.datatype, "shape": list(told.shape)}
    parameters = _parameters(told.parameters)
    if raw is None:
        return {**tensor, "parameters": parameters, "data": _elements(told)}
    if told.HasField("contents"):
        raise InvalidRequest("has its elements in contents or in raw_input_contents, not in both", told.name)
    return {**tensor, "parameters": {**parameters, "binary_data_size": len(raw)}}


def _elements(told: ModelInferRequest.InferInputTensor) -> list[str | int]:
    """Return the elements of a tensor; of datatypes that are not taken, which is told later, none."""
    field = _CONTENTS.get(told.datatype)
    if field is None:
        return []
    others = [each.name for each, _ in told.contents.ListFields() if each.name != field]
    if others:
        raise InvalidRequest(f"has elements in {others[0]}; those of {told.datatype} are in {field}", told.name)
    elements = getattr(told.contents, field)
    if told.datatype == "BYTES":
        return [text_of(piece, f"{told.name}[{index}]") for index, piece in enumerate(elements)]
    return list(elements)


def _plain(tensor: Tensor) -> list[Any]:
    values = tensor.values
    return values.tolist() if isinstance(values, np.ndarray) else [str(text).encode() for text in values]


def _parameters(told: Mapping[str, InferParameter]) -> dict[str, Any]:
    """Return parameters by name; one without a value is None, which no parameter may be."""
    return {name: _value(parameter) for name, parameter in told.items()}


def _value(parameter: InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)
