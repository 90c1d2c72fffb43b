"""
One call of the Open Inference Protocol between its frame and the engine: what is asked, and the answer as it is wanted.

Everything that can be wrong with it is found here, before anything is queued.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.call import misfit, parse
from gateway.errors import HttpFault
from gateway.frames import Frame
from gateway.kserve_forms import (
    PARAMETERS,
    EmbedParameters,
    FillParameters,
    InferBody,
    Parameters,
    RerankParameters,
    SparseParameters,
    TagParameters,
    WantedOutput,
    WantedParameters,
)
from gateway.outputs import classified, columns, tensor
from gateway.signatures import Slot, read_inputs, signature
from gateway.tensors import Tensor, read_tensors
from inference import Answer, Classify, Client, Embed, FillMask, Inputs, InvalidRequest, Rerank, Sparse, Tag, Terms

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

_INFER: Final = msgspec.json.Decoder(InferBody)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that is asked for."""

    slot: Slot
    binary: bool
    classes: int | None = None  # so many of its best, instead of all


@dataclass(frozen=True, slots=True)
class Question:
    """What a call asks of a model."""

    inputs: Inputs
    parameters: Parameters
    outputs: Sequence[Wanted]
    id: str | None = None


def read_question(frame: Frame, model: "ServedModel") -> Question:
    """Read and check a call; raises HttpFault or InvalidRequest."""
    if frame.raw:
        return _raw_question(frame, model)
    return question_of(parse(_INFER, frame.head), frame.tail, model)


def question_of(body: InferBody, tail: bytes | memoryview, model: "ServedModel") -> Question:
    """Check a call whose tensors may have their bytes in the tail; raises HttpFault or InvalidRequest."""
    parameters = _parameters(body.parameters or {}, model)
    inputs = read_inputs(read_tensors(body.inputs, tail), model)
    return Question(inputs, parameters, _wanted(body.outputs or [], parameters, model), body.id)


def ask(client: Client, question: Question, terms: Terms) -> Awaitable[Answer[Any]]:
    """Ask the engine what the model's task is about."""
    inputs = question.inputs
    match question.parameters:
        case EmbedParameters(dimensions=dimensions, prompt_name=prompt_name, input_type=input_type):
            return client.embed(Embed(inputs, terms, dimensions, prompt_name, input_type))
        case TagParameters(aggregation_strategy=aggregation):
            return client.tag(Tag(inputs, terms, aggregation))
        case FillParameters(top_k=top_k):
            return client.fill_mask(FillMask(inputs, terms, top_k))
        case RerankParameters():
            return client.rerank(Rerank(inputs, terms))
        case SparseParameters():
            return client.sparse(Sparse(inputs, terms))
        case _:
            return client.classify(Classify(inputs, terms))


def tensors_of(answer: Answer[Any], question: Question, model: "ServedModel") -> list[Tensor]:
    """Return the outputs that were asked for, in their order."""
    values = columns(model, answer.items)
    return [
        tensor(wanted.slot, values[wanted.slot.name])
        if wanted.classes is None
        else classified(wanted.slot, values[wanted.slot.name], wanted.classes, model.labels)
        for wanted in question.outputs
    ]


def _raw_question(frame: Frame, model: "ServedModel") -> Question:
    """Read a body that is nothing but one text; all outputs come as bytes."""
    try:
        text = bytes(frame.tail).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("is not UTF-8", "text") from None
    parameters = _parameters({"binary_data_output": True}, model)
    inputs = read_inputs({"text": Tensor("text", "BYTES", (1,), [text])}, model)
    return Question(inputs, parameters, _wanted([], parameters, model))


def _parameters(told: dict[str, Any], model: "ServedModel") -> Parameters:
    try:
        return msgspec.convert(told, PARAMETERS[model.task])
    except msgspec.ValidationError as err:
        fault = misfit(err)
        raise HttpFault(fault.status, fault.code, str(fault), f"parameters.{fault.field}") from None


def _wanted(told: Sequence[WantedOutput], parameters: Parameters, model: "ServedModel") -> list[Wanted]:
    slots = {slot.name: slot for slot in signature(model).outputs}
    if not told:
        return [Wanted(slot, parameters.binary_data_output) for slot in slots.values()]
    names = [one.name for one in told]
    for index, name in enumerate(names):
        if name not in slots:
            raise InvalidRequest(f"is no output of this model; it has: {', '.join(slots)}", f"outputs[{index}].name")
        if name in names[:index]:
            raise InvalidRequest("is there twice", f"outputs[{index}].name")
    return [_one(slots[one.name], one.parameters or WantedParameters(), parameters) for one in told]


def _one(slot: Slot, told: WantedParameters, parameters: Parameters) -> Wanted:
    if told.classification is not None and (slot.datatype, len(slot.shape)) != ("FP32", 2):
        raise InvalidRequest("has no classes", slot.name)
    binary = parameters.binary_data_output if told.binary_data is None else told.binary_data
    return Wanted(slot, binary, told.classification)
