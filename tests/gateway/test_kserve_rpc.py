import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from gateway import open_inference_pb2 as pb
from gateway.config import HttpConfig, Settings
from gateway.kserve_rpc import METHODS, SERVICE, UNSUPPORTED
from gateway.rpc import Rpc
from inference import EngineConfig, ModelSource, Overloaded, RuntimeFailed
from inference.config import ControlConfig
from tests.changing import ChangingEngine
from tests.gateway.fakes import HIDDEN, LABELS, MODEL, FakeEngine, Gateway, ready, vector

pytestmark = pytest.mark.anyio

SETTINGS = Settings(http=HttpConfig(grpc_port=0))
WORDS = {"w0": 4, "w1": 5}


@dataclass(frozen=True)
class Caller:
    """A gateway, and a plain channel to it."""

    gateway: Gateway
    channel: grpc.aio.Channel

    async def ask(self, method: str, message: Message, kind: type[Message], **terms: Any) -> Any:
        call = self.channel.unary_unary(f"/{SERVICE}/{method}", type(message).SerializeToString, kind.FromString)
        return await call(message, **terms)

    async def infer(self, message: pb.ModelInferRequest, **terms: Any) -> pb.ModelInferResponse:
        return await self.ask("ModelInfer", message, pb.ModelInferResponse, **terms)

    async def refused(self, message: pb.ModelInferRequest) -> tuple[grpc.StatusCode, str]:
        """How a call ends before which nothing was queued."""
        with pytest.raises(grpc.RpcError) as caught:
            await self.infer(message)
        assert self.gateway.engine.submitted == []
        return caught.value.code(), caught.value.details()


@asynccontextmanager
async def calling(engine: FakeEngine | None = None, settings: Settings = SETTINGS) -> AsyncIterator[Caller]:
    async with ready(engine, settings) as subject:
        rpc = Rpc(subject.app, settings.http, settings.deadlines)
        port = await rpc.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Caller(subject, channel)
        await rpc.stop(5)


def raw(*texts: str) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def tensor(name: str, datatype: str, *shape: int, **contents: Any) -> Any:
    contained = pb.InferTensorContents(**contents) if contents else None
    return pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape, contents=contained)


def asked(*inputs: Any, **more: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name=MODEL, inputs=inputs, **more)


def text(*texts: str) -> Any:
    return tensor("text", "BYTES", len(texts), bytes_contents=[one.encode() for one in texts])


def parameters(**told: Any) -> dict[str, pb.InferParameter]:
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: pb.InferParameter(**{fields[type(value)]: value}) for name, value in told.items()}


def floats(answer: pb.ModelInferResponse) -> np.ndarray:
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(answer.outputs[0].shape)


async def test_typed_and_raw_tensors_are_answered_alike() -> None:
    ids = tensor("input_ids", "INT64", 2, 3)
    mask = tensor("attention_mask", "INT64", 2, 3, int64_contents=[1, 1, 1, 1, 1, 1])
    numbers = [2, WORDS["w0"], 3, 2, WORDS["w1"], 3]
    forms = {
        "typed text": asked(text("w0", "w1")),
        "raw text": asked(tensor("text", "BYTES", 2), raw_input_contents=[raw("w0", "w1")]),
        "typed ids": asked(tensor("input_ids", "INT64", 2, 3, int64_contents=numbers), mask),
        "small ids": asked(tensor("input_ids", "INT32", 2, 3, int_contents=numbers)),
        "raw ids": asked(ids, raw_input_contents=[np.array(numbers, "<i8").tobytes()]),
    }

    async with calling() as caller:
        answers = {form: await caller.infer(message) for form, message in forms.items()}

    expected = np.stack([vector([2, WORDS[word], 3]) for word in ("w0", "w1")])
    assert {form: floats(answer).tolist() for form, answer in answers.items()} == dict.fromkeys(
        forms, expected.tolist()
    )
    told = answers["typed text"]
    assert (told.model_name, told.model_version, told.id) == (MODEL, "1", "")
    assert [(one.name, one.datatype, list(one.shape)) for one in told.outputs] == [("embedding", "FP32", [2, HIDDEN])]


async def test_outputs_are_typed_for_those_who_ask_for_it() -> None:
    async with calling(FakeEngine({MODEL: "classify"})) as caller:
        answer = await caller.infer(asked(text("w0"), parameters=parameters(binary_data_output=False), id="mine"))
        plain = await caller.infer(asked(text("w0")))

    typed = {one.name: one.contents for one in answer.outputs}
    assert answer.id == "mine"
    assert not answer.raw_output_contents
    best = LABELS["classify"][int(np.argmax(typed["logit"].fp32_contents))]
    assert list(typed["label"].bytes_contents) == [best.encode()]
    assert np.frombuffer(plain.raw_output_contents[0], "<f4").tolist() == list(typed["score"].fp32_contents)
    assert plain.raw_output_contents[2] == raw(best)


async def test_parameters_and_wanted_outputs_are_those_of_the_json_form() -> None:
    wanted = pb.ModelInferRequest.InferRequestedOutputTensor(name="score", parameters=parameters(classification=1))
    async with calling() as caller:
        short = await caller.infer(asked(text("w0"), parameters=parameters(dimensions=3)))
    async with calling(FakeEngine({MODEL: "classify"})) as caller:
        classes = await caller.infer(asked(text("w0"), outputs=[wanted]))

    assert floats(short).shape == (1, 3)
    assert [(one.name, one.datatype) for one in classes.outputs] == [("score", "BYTES")]


WRONG = [
    (asked(), "text: is missing"),
    (asked(tensor("text", "BYTES", 2, bytes_contents=[b"w0"])), "text: has 1 elements, and shape [2] has 2"),
    (asked(tensor("text", "BYTES", 1, bytes_contents=[b"\xff"])), "text[0]: is not UTF-8"),
    (asked(tensor("text", "BYTES", 1)), "text: has 0 elements, and shape [1] has 1"),
    (asked(tensor("text", "BYTES", -1)), "inputs[0].shape[0]: Expected `int` >= 0"),
    (asked(tensor("", "BYTES", 1)), "inputs[0].name: Expected `str` of length >= 1"),
    (
        asked(tensor("input_ids", "INT64", 1, 1, int_contents=[2])),
        "input_ids: has elements in int_contents; those of INT64 are in int64_contents",
    ),
    (
        asked(tensor("text", "FP16", 1), raw_input_contents=[b"ab"]),
        "text: the datatype 'FP16' is not taken: send BYTES, INT32 or INT64",
    ),
    (asked(text("w0"), raw_input_contents=[raw("w0")]), "text: has its elements in contents or in raw_input_cont"),
    (asked(text("w0"), raw_input_contents=[b"", b""]), "raw_input_contents: has 2 elements, and there are 1 inp"),
    (
        asked(tensor("text", "BYTES", 1), raw_input_contents=[raw("w0")[:-1]]),
        "text[0]: is cut off: 1 of its 2 bytes",
    ),
    (asked(text("w0"), parameters=parameters(dimension=3)), "parameters.dimension: Object contains unknown field"),
    (asked(text("w0"), parameters=parameters(timeout=-1)), "parameters.timeout: Expected `int` >= 0"),
    (asked(text("w0"), parameters={"timeout": pb.InferParameter()}), "parameters.timeout: Expected `"),
    (asked(text("w0"), id="x" * 257), "id: Expected `str` of length <= 256"),
    (
        asked(text("w0"), outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="no")]),
        "outputs[0].name: is no output of this model; it has: embedding",
    ),
]


async def test_whatever_is_wrong_is_an_invalid_argument_that_names_its_field(caller: Caller) -> None:
    told = [await caller.refused(message) for message, _ in WRONG]

    assert {code for code, _ in told} == {grpc.StatusCode.INVALID_ARGUMENT}
    expected = [sentence for _, sentence in WRONG]
    assert [details[: len(sentence)] for (_, details), sentence in zip(told, expected, strict=True)] == expected


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as subject:
        yield subject


async def test_bytes_that_are_no_message_are_an_invalid_argument(caller: Caller) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await caller.channel.unary_unary(f"/{SERVICE}/ModelInfer")(b"\xff\xff")

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the body is no ModelInferRequest"


async def test_the_only_model_need_not_be_named(caller: Caller) -> None:
    answer = await caller.infer(pb.ModelInferRequest(inputs=[text("w0")]))

    assert answer.model_name == MODEL


async def test_models_and_versions_that_are_not_here_are_not_found(caller: Caller) -> None:
    nobody = pb.ModelInferRequest(model_name="nobody", inputs=[text("w0")])

    assert await caller.refused(nobody) == (
        grpc.StatusCode.NOT_FOUND,
        f"model: the model 'nobody' is not served; there is: {MODEL}",
    )
    assert (await caller.refused(asked(text("w0"), model_version="2")))[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (Overloaded("queue full", 1.25), grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full"),
        (RuntimeFailed("secret"), grpc.StatusCode.INTERNAL, "the model failed on this input"),
        (ValueError("secret"), grpc.StatusCode.INTERNAL, "something went wrong here; the request id tells us what"),
    ],
)
async def test_errors_of_the_engine_are_statuses(error: Exception, code: grpc.StatusCode, told: str) -> None:
    async with calling() as caller:
        caller.gateway.engine.error = error
        with pytest.raises(grpc.RpcError) as caught:
            await caller.infer(asked(text("w0")))

    assert (caught.value.code(), caught.value.details()) == (code, told)
    waits = {key: value for key, value in caught.value.trailing_metadata() or () if "retry" in key}
    wanted = {"retry-after": "2", "retry-after-ms": "1250", "grpc-retry-pushback-ms": "1250"}
    assert waits == (wanted if isinstance(error, Overloaded) else {})


async def test_what_is_told_of_models_is_what_the_json_form_tells() -> None:
    async with calling(FakeEngine({MODEL: "embed", "other": "rerank"})) as caller:
        await caller.infer(asked(text("w0")))
        await caller.gateway.post(f"/v2/models/{MODEL}/infer", inputs=[{**JSON_TEXT}])

        async def told(method: str, message: Message, kind: type[Message]) -> Any:
            answer = await caller.ask(method, message, kind)
            return MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)

        pairs = {
            "/v2": await told("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse),
            f"/v2/models/{MODEL}": await told(
                "ModelMetadata", pb.ModelMetadataRequest(name=MODEL), pb.ModelMetadataResponse
            ),
            f"/v2/models/{MODEL}/config": (
                await told("ModelConfig", pb.ModelConfigRequest(name=MODEL, version="1"), pb.ModelConfigResponse)
            )["config"],
            f"/v2/models/{MODEL}/stats": await told(
                "ModelStatistics", pb.ModelStatisticsRequest(name=MODEL), pb.ModelStatisticsResponse
            ),
            "/v2/models/stats": await told("ModelStatistics", pb.ModelStatisticsRequest(), pb.ModelStatisticsResponse),
        }
        as_json = {path: (await caller.gateway.http.get(path)).json() for path in pairs}
        index = await told("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)

    assert {path: _as_text(one) for path, one in pairs.items()} == {
        path: _as_text(one) for path, one in as_json.items()
    }
    assert pairs[f"/v2/models/{MODEL}/stats"]["model_stats"][0]["inference_stats"]["success"]["count"] == "2"
    assert [one["name"] for one in index["models"]] == [MODEL, "other"]


JSON_TEXT = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w1"]}


def _as_text(told: Any) -> Any:
    """Every number as text: the JSON of a message writes 64 bits so."""
    if isinstance(told, dict):
        return {key: _as_text(value) for key, value in told.items()}
    if isinstance(told, list):
        return [_as_text(value) for value in told]
    return str(told) if type(told) is int else told


async def test_readiness_is_told_of_the_server_and_of_models(caller: Caller) -> None:
    async def is_ready(name: str, version: str = "") -> bool:
        message = pb.ModelReadyRequest(name=name, version=version)
        return (await caller.ask("ModelReady", message, pb.ModelReadyResponse)).ready

    live = await caller.ask("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)
    server = await caller.ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)

    assert (live.live, server.ready) == (True, True)
    assert [await is_ready(MODEL), await is_ready(MODEL, "1")] == [True, True]
    assert [await is_ready("nobody"), await is_ready(MODEL, "2")] == [False, False]


async def test_what_is_changed_over_http_is_told_and_answered_over_grpc() -> None:
    control = EngineConfig(models=(ModelSource(MODEL, "hub/tiny"),), control=ControlConfig("explicit"))
    settings = replace(SETTINGS, engine=control)
    load = f"/v2/repository/models/{MODEL}"
    async with calling(ChangingEngine(config=control), settings) as caller:
        await caller.gateway.http.post(f"{load}/load")
        answers = [await caller.infer(asked(text("w0"), model_version=version)) for version in ("", "2")]
        with pytest.raises(grpc.RpcError) as gone:
            await caller.infer(asked(text("w0"), model_version="1"))
        await caller.gateway.http.post(f"{load}/unload")
        index = [
            (await caller.ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=only), pb.RepositoryIndexResponse))
            for only in (False, True)
        ]

    assert [answer.model_version for answer in answers] == ["2", "2"]
    assert (gone.value.code(), "it has: 2" in gone.value.details()) == (grpc.StatusCode.NOT_FOUND, True)
    assert [[(one.name, one.version, one.state, one.reason) for one in told.models] for told in index] == [
        [(MODEL, "2", "UNAVAILABLE", "unloaded")],
        [],
    ]


async def test_a_draining_server_is_not_ready_and_still_answers() -> None:
    async with calling() as caller:
        caller.gateway.lifecycle.drain()
        server = await caller.ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)
        model = await caller.ask("ModelReady", pb.ModelReadyRequest(name=MODEL), pb.ModelReadyResponse)
        answer = await caller.infer(asked(text("w0")))

    assert (server.ready, model.ready) == (False, False)
    assert floats(answer).shape == (1, HIDDEN)


async def test_a_stream_answers_in_order_and_outlives_what_is_wrong_in_it(caller: Caller) -> None:
    messages = [asked(text("w0"), id="a"), asked(text(""), id="b"), asked(text("w1"), id="c")]
    method = f"/{SERVICE}/ModelStreamInfer"
    stream = caller.channel.stream_stream(
        method, pb.ModelInferRequest.SerializeToString, pb.ModelStreamInferResponse.FromString
    )

    answers = [answer async for answer in stream(iter(messages))]

    assert [answer.error_message for answer in answers] == ["", "text[0]: must not be empty", ""]
    assert [answer.infer_response.id for answer in answers] == ["a", "", "c"]
    assert caller.gateway.metric("headrace_requests_total", route=method, model=MODEL, outcome="invalid") == 1


async def test_what_is_not_supported_says_why(caller: Caller) -> None:
    told = {}
    for method in UNSUPPORTED:
        with pytest.raises(grpc.RpcError) as caught:
            await caller.channel.unary_unary(f"/{SERVICE}/{method}")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        told[method] = caught.value.details()

    assert told == UNSUPPORTED


async def test_the_methods_are_not_served_over_plain_http(caller: Caller) -> None:
    paths = [f"/{SERVICE}/{method}" for method in METHODS]
    answers = [await caller.gateway.http.post(path, content=b"") for path in paths]
    async with ready() as without:
        off = await without.http.post(paths[0])

    assert {answer.status_code for answer in answers} == {415, 501}
    assert off.status_code == 404
