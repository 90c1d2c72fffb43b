import asyncio
import gzip
import json
import struct
import threading
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pytest

from gateway.config import HttpConfig, Settings
from inference import DeadlineExceeded, Dispatched, Overloaded, Report, RuntimeFailed, Unavailable
from inference.labels import ranked, sigmoid, softmax
from tests.gateway.fakes import HIDDEN, LABELS, MASK, MODEL, VOCABULARY, FakeEngine, Gateway, gateway, ready, vector

pytestmark = pytest.mark.anyio

W0, W1 = 4, 5  # ids of the words `w0` and `w1`, which stand between [CLS] = 2 and [SEP] = 3
INFER = f"/v2/models/{MODEL}/infer"


def text(*texts: str, name: str = "text") -> dict[str, Any]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}


def whole(name: str, rows: list, datatype: str = "INT64") -> dict[str, Any]:
    return {"name": name, "shape": list(np.shape(rows)), "datatype": datatype, "data": rows}


async def infer(subject: Gateway, *inputs: dict[str, Any], **body: Any) -> httpx2.Response:
    return await subject.http.post(INFER, json={"inputs": inputs, **body})


def outputs(answer: httpx2.Response) -> dict[str, Any]:
    """The outputs of a JSON answer by name: arrays in their shape, or lists of texts."""
    assert answer.status_code == 200, answer.text
    told = {one["name"]: one for one in answer.json()["outputs"]}
    dtypes = {"FP32": np.float32, "INT32": np.int32, "BYTES": object}
    return {
        name: np.array(one["data"], dtypes[one["datatype"]]).reshape(one["shape"]).tolist()
        if one["datatype"] == "BYTES"
        else np.array(one["data"], dtypes[one["datatype"]]).reshape(one["shape"])
        for name, one in told.items()
    }


def in_bytes(answer: httpx2.Response) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The JSON of an answer in bytes, and each output's bytes."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    at = int(answer.headers["inference-header-content-length"])
    head, pieces = json.loads(answer.content[:at]), {}
    for one in head["outputs"]:
        size = one["parameters"]["binary_data_size"]
        pieces[one["name"]], at = answer.content[at : at + size], at + size
    assert at == len(answer.content)
    return head, pieces


def refused(answer: httpx2.Response, subject: Gateway, status: int = 400) -> str:
    """The message of an error in the dialect's shape, before which nothing was queued."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    assert subject.engine.submitted == []
    return answer.json()["error"]


async def test_texts_are_answered_with_a_row_each() -> None:
    async with ready() as subject:
        answer = await infer(subject, text("w1", "w0 w0"), id="mine")

    assert answer.headers["content-type"] == "application/json"
    assert {name: answer.json()[name] for name in ("model_name", "model_version", "id")} == {
        "model_name": MODEL,
        "model_version": "1",
        "id": "mine",
    }
    np.testing.assert_array_equal(outputs(answer)["embedding"], [vector([2, W1, 3]), vector([2, W0, W0, 3])])
    assert "device;dur=" in answer.headers["server-timing"]


async def test_an_id_that_was_not_given_is_not_made_up() -> None:
    async with ready() as subject:
        assert "id" not in (await infer(subject, text("w0"))).json()


@pytest.mark.parametrize("name", ["text", "input-0", "args"])
@pytest.mark.parametrize("shape", [[2], [2, 1]])
async def test_the_only_text_may_have_any_name_and_a_dimension_of_one(name: str, shape: list[int]) -> None:
    async with ready() as subject:
        answer = await infer(subject, {**text("w0", "w1", name=name), "shape": shape})

    np.testing.assert_array_equal(outputs(answer)["embedding"], [vector([2, W0, 3]), vector([2, W1, 3])])


async def test_texts_may_come_as_bytes_and_leave_as_bytes() -> None:
    tail = struct.pack("<I", 2) + b"w0" + struct.pack("<I", 5) + b"w1 w1"
    head = {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    body = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}}).encode()
    async with ready() as subject:
        answer = await subject.http.post(
            INFER, content=body + tail, headers={"inference-header-content-length": str(len(body))}
        )

    told, pieces = in_bytes(answer)
    assert told["outputs"][0]["shape"] == [2, HIDDEN]
    assert pieces["embedding"] == b"".join(vector(ids).tobytes() for ids in ([2, W0, 3], [2, W1, W1, 3]))


async def test_a_body_that_is_nothing_but_a_text_is_answered_in_bytes() -> None:
    async with ready() as subject:
        answer = await subject.http.post(INFER, content=b"w0 w1", headers={"inference-header-content-length": "0"})

    told, pieces = in_bytes(answer)
    assert told["outputs"][0]["shape"] == [1, HIDDEN]
    assert pieces["embedding"] == vector([2, W0, W1, 3]).tobytes()


@pytest.mark.parametrize("raw", [b"", b"\xff"])
async def test_a_body_that_is_no_text_is_refused(raw: bytes) -> None:
    async with ready() as subject:
        answer = await subject.http.post(INFER, content=raw, headers={"inference-header-content-length": "0"})

    assert refused(answer, subject).startswith("text")


@pytest.mark.parametrize("datatype", ["INT64", "INT32"])
async def test_token_ids_are_taken_as_given_and_without_their_padding(datatype: str) -> None:
    ids = [[W1, W0, 0, 0], [0, 0, 0, VOCABULARY - 1], [2, W0, W0, 3]]
    mask = [[1, 1, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1]]
    async with ready() as subject:
        answer = await infer(
            subject,
            whole("input_ids", ids, datatype),
            whole("attention_mask", mask, datatype),
            whole("token_type_ids", [[0] * 4] * 3, datatype),
        )

    wanted = [vector([W1, W0]), vector([VOCABULARY - 1]), vector([2, W0, W0, 3])]
    np.testing.assert_array_equal(outputs(answer)["embedding"], wanted)


async def test_token_ids_without_a_mask_are_all_real() -> None:
    async with ready() as subject:
        answer = await infer(subject, whole("input_ids", [[W1, 0]]))

    np.testing.assert_array_equal(outputs(answer)["embedding"], [vector([W1, 0])])


IDS = whole("input_ids", [[W0, W1]])


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        ([], "text: is missing"),
        ([text()], "text: must not be empty"),
        ([text("w0", "")], "text[1]: must not be empty"),
        ([text("w0 " * 20)], "text[0]: has more than the 16 tokens"),
        ([{**text("w0", "w1"), "shape": [1, 2]}], "text: has the shape [1, 2]"),
        ([{**text("w0"), "shape": []}], "text: has the shape []"),
        ([{**text("w0"), "shape": [1, 1, 1]}], "text: has the shape [1, 1, 1]"),
        ([whole("text", [1])], "text: takes BYTES, not INT64"),
        ([text("w0", "", name="input-0")], "input-0[1]: must not be empty"),
        ([{**text("w0", name="args"), "shape": [1, 1, 1]}], "args: has the shape [1, 1, 1]"),
        ([text("w0", name="input_ids")], "input_ids: takes INT64, not BYTES"),
        ([whole("input-0", [1])], "input-0: is no input of this model"),
        ([{**text("w0"), "datatype": "FP32"}], "text: the datatype 'FP32' is not taken"),
        ([text("w0"), text("w0", name="other")], "other: is no input of this model; it takes: text, input_ids"),
        ([{**text("w0"), "parameters": {"shared_memory_region": "r"}}], "shared_memory_region"),
        ([text("w0"), IDS], "text: is given as text or as token ids"),
        ([text("w0"), whole("attention_mask", [[1]])], "text: is given as text or as token ids"),
        ([whole("attention_mask", [[1, 1]])], "input_ids: is missing"),
        ([{**text("w0", name="input_ids")}, whole("attention_mask", [[1]])], "input_ids: takes INT64, not BYTES"),
        ([whole("input_ids", [W0, W1])], "input_ids: has the shape [2]; it must be [n, tokens]"),
        ([whole("input_ids", [[W0, VOCABULARY]])], "input_ids[0]: token ids must be between 0"),
        ([whole("input_ids", [[W0], [-1]])], "input_ids[1]: token ids must be between 0"),
        ([IDS, whole("attention_mask", [[1]])], "attention_mask: has the shape [1, 1]; it must be that of input_ids"),
        ([IDS, whole("attention_mask", [[0, 0]])], "input_ids[0]: must not be empty"),
        ([IDS, whole("attention_mask", [[1, 2]])], "attention_mask[0]: must be one run of ones"),
        ([whole("input_ids", [[4, 5, 4]]), whole("attention_mask", [[1, 0, 1]])], "attention_mask[0]: must be one run"),
        ([IDS, whole("token_type_ids", [[0, 1]])], "token_type_ids: must all be 0"),
        ([{**IDS, "shape": [0, 2], "data": []}], "input_ids: must not be empty"),
    ],
)
async def test_an_input_that_is_wrong_is_named(inputs: list[dict], names: str) -> None:
    async with ready() as subject:
        message = refused(await infer(subject, *inputs), subject)

    assert names in message


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"zzz": 1}, "zzz"),
        ({"id": 5}, "id: Expected `str | null`"),
        ({"parameters": {"sequence_id": 1}}, "parameters.sequence_id"),
        ({"parameters": {"top_k": 1}}, "parameters.top_k"),
        ({"parameters": {"timeout": "1"}}, "parameters.timeout"),
        ({"parameters": {"timeout": -1}}, "parameters.timeout"),
        ({"parameters": {"timeout": 300_000_001}}, "parameters.timeout: must be at most 300000000 microseconds"),
        ({"parameters": {"timeout": 10**30}}, "parameters.timeout"),
        ({"parameters": {"priority": 11}}, "parameters.priority: must be from 0 to 10"),
        ({"parameters": {"dimensions": HIDDEN + 1}}, "parameters.dimensions: must be between 1 and"),
        ({"parameters": {"prompt_name": "no"}}, "parameters.prompt_name: tiny has no prompt of that name"),
        ({"parameters": {"timeout": None}}, "parameters.timeout: Expected `int`"),
        ({"parameters": {"timeout": [1]}}, "parameters.timeout: Expected `int`"),
        ({"parameters": {"input_type": "x"}}, "parameters.input_type"),
        ({"parameters": {"a": {"b": 1}}}, "parameters"),
        ({"outputs": [{"name": "score"}]}, "outputs[0].name: is no output of this model; it has: embedding"),
        ({"outputs": [{"name": "embedding"}] * 2}, "outputs[1].name: is there twice"),
        ({"outputs": [{"name": "embedding", "parameters": {"binary": True}}]}, "outputs[0].parameters"),
        ({"outputs": [{"name": "embedding", "parameters": {"classification": 0}}]}, "classification"),
    ],
)
async def test_a_field_or_parameter_that_is_wrong_is_named(body: dict, names: str) -> None:
    async with ready() as subject:
        message = refused(await infer(subject, text("w0"), **body), subject)

    assert names in message


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"inputs": 1}', b"\xff", b"[" * 100_000])
async def test_what_is_no_call_is_refused(raw: bytes) -> None:
    async with ready() as subject:
        refused(await subject.http.post(INFER, content=raw), subject)


async def test_the_fields_of_kserves_clients_are_taken() -> None:
    async with ready() as subject:
        answer = await infer(subject, text("w0"), model_name="other", model_version="2", parameters={})

    assert answer.json()["model_name"] == MODEL


@pytest.mark.parametrize(
    ("priority", "header", "wanted"),
    [(0, None, 0), (1, None, 5), (6, None, 0), (7, None, -1), (15, None, -9), (0, "3", 3), (2, "-3", 4)],
)
async def test_priorities_count_downwards_from_the_highest_that_anybody_gets(
    priority: int, header: str | None, wanted: int
) -> None:
    headers = {} if header is None else {"x-request-priority": header}
    async with ready(settings=Settings(http=HttpConfig(max_priority=5))) as subject:
        body = {"inputs": [text("w0")], "parameters": {"priority": priority}}
        await subject.http.post(INFER, json=body, headers=headers)

    assert subject.engine.submitted[0].priority == wanted


async def test_a_timeout_in_microseconds_ends_a_call_that_waits() -> None:
    async with ready() as subject:
        subject.engine.device.gate.clear()
        answer = await infer(subject, text("w0"), parameters={"timeout": 20_000})

    assert answer.status_code == 504
    assert answer.json().keys() == {"error"}


async def test_a_timeout_of_0_is_the_default() -> None:
    async with ready() as subject:
        assert (await infer(subject, text("w0"), parameters={"timeout": 0})).status_code == 200


async def test_parameters_of_embedding_are_heard() -> None:
    async with ready() as subject:
        answer = await infer(subject, text("w0 " * 20), parameters={"dimensions": 8, "truncate": True})

    head = vector([2, *[W0] * 14, 3])[:8]
    np.testing.assert_allclose(outputs(answer)["embedding"], [head / np.linalg.norm(head)], rtol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "output", "binary"),
    [
        (None, None, False),
        ({"binary_data": True}, None, True),
        (None, True, True),
        ({"binary_data": False}, True, False),
        ({"binary_data": True}, False, True),
    ],
)
async def test_an_outputs_own_wish_for_bytes_goes_before_that_of_the_call(
    parameters: dict | None, output: bool | None, binary: bool
) -> None:
    wanted = {"name": "embedding", **({} if parameters is None else {"parameters": parameters})}
    told = {} if output is None else {"binary_data_output": output}
    async with ready() as subject:
        answer = await infer(subject, text("w0"), outputs=[wanted], parameters=told)

    assert ("inference-header-content-length" in answer.headers) == binary


@pytest.mark.parametrize("binary", [False, True])
async def test_an_answer_is_compressed_when_that_is_asked_for(binary: bool) -> None:
    async with ready() as subject:
        body = {"inputs": [text("w0")], "parameters": {"binary_data_output": binary}}
        squeezed = await subject.http.post(INFER, json=body, headers={"accept-encoding": "gzip"})
        plain = await subject.http.post(INFER, json=body, headers={"accept-encoding": "gzip, deflate"})

    assert squeezed.headers["content-encoding"] == "gzip"
    assert int(squeezed.headers["content-length"]) == len(gzip.compress(plain.content, 1, mtime=0))
    assert squeezed.content == plain.content
    assert "content-encoding" not in plain.headers


async def test_a_query_goes_with_every_text_or_each_with_its_own() -> None:
    async with ready(FakeEngine({MODEL: "rerank"})) as subject:
        every = await infer(subject, text("w0", name="query"), text("w1", "w2 w3"))
        own = await infer(subject, text("w0", "w0", name="query"), {**text("w1", "w2 w3"), "shape": [2, 1]})

    tokens = [request.tokens.tolist() for request in subject.engine.submitted[0].requests]
    assert all(W0 in ids for ids in tokens) and W1 in tokens[0] and W1 not in tokens[1]
    logits = np.concatenate([subject.engine.device.row(ids, "logits") for ids in tokens])
    for answer in (every, own):
        assert list(outputs(answer)) == ["score", "logit"]
        np.testing.assert_array_equal(outputs(answer)["logit"], logits)
        np.testing.assert_array_equal(outputs(answer)["score"], sigmoid(logits))


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        ([text("w0")], "query: is missing"),
        ([text("w0", name="query")], "text: is missing"),
        ([text("w0", "w1", name="query"), text("w0")], "text: has 1 rows, and query has 2"),
        ([text("", name="query"), text("w0")], "query[0]: must not be empty"),
        ([text("w0", name="query"), text("w0", "")], "text[1]: must not be empty"),
        ([IDS], "input_ids: is no input of this model; it takes: query, text"),
    ],
)
async def test_pairs_that_are_none_are_named(inputs: list[dict], names: str) -> None:
    async with ready(FakeEngine({MODEL: "rerank"})) as subject:
        assert names in refused(await infer(subject, *inputs), subject)


async def test_texts_are_classified() -> None:
    async with ready(FakeEngine({MODEL: "classify"})) as subject:
        answer = await infer(subject, text("w0", "w1"))
        row = subject.engine.device.row

    logits = np.stack([row([2, each, 3], "logits") for each in (W0, W1)])
    told = outputs(answer)
    assert list(told) == ["score", "logit", "label"]
    np.testing.assert_array_equal(told["logit"], logits)
    np.testing.assert_array_equal(told["score"], np.stack(list(map(softmax, logits))))
    assert told["label"] == [LABELS["classify"][each.argmax()] for each in logits]


async def test_pairs_are_classified() -> None:
    async with ready(FakeEngine({MODEL: "classify"})) as subject:
        answer = await infer(subject, text("w0"), text("w1", name="text_pair"), outputs=[{"name": "label"}])
        short = await infer(subject, text("w0", "w1"), text("w1", name="text_pair"))
        alone = await infer(subject, text("w1", name="text_pair"))

    assert list(outputs(answer)) == ["label"]
    assert short.json()["error"] == "text_pair: has 1 rows, and text has 2"
    assert alone.json()["error"] == "text: is missing"


@pytest.mark.parametrize("most", [1, 2, 9])
async def test_the_best_classes_are_written_as_triton_does(most: int) -> None:
    wanted = {"name": "score", "parameters": {"classification": most}}
    async with ready(FakeEngine({MODEL: "classify"})) as subject:
        answer = await infer(subject, text("w0"), outputs=[wanted])
        scores = softmax(subject.engine.device.row([2, W0, 3], "logits"))

    order = ranked(scores)[:most]
    assert answer.json()["outputs"][0]["datatype"] == "BYTES"
    labels = LABELS["classify"]
    assert outputs(answer)["score"] == [[f"{scores[index]:.6f}:{index}:{labels[index]}" for index in order]]


async def test_classes_without_names_have_numbers() -> None:
    async with ready() as subject:
        wanted = {"name": "embedding", "parameters": {"classification": 1}}
        answer = await infer(subject, text("w0"), outputs=[wanted])

    best = int(vector([2, W0, 3]).argmax())
    assert outputs(answer)["embedding"] == [[f"{vector([2, W0, 3])[best]:.6f}:{best}"]]


async def test_what_has_no_classes_is_named() -> None:
    async with ready(FakeEngine({MODEL: "classify"})) as subject:
        wanted = {"name": "label", "parameters": {"classification": 1}}
        assert "label: has no classes" in refused(await infer(subject, text("w0"), outputs=[wanted]), subject)


async def test_each_span_says_which_text_it_is_of() -> None:
    texts = ["w0 w1", "w5", "w2 w3 w4"]
    async with ready(FakeEngine({MODEL: "token-classify"})) as subject:
        answer = await infer(subject, text(*texts), parameters={"aggregation_strategy": "none"})

    told = outputs(answer)
    assert list(told) == ["row", "label", "word", "score", "start", "end"]
    assert len(told["row"]) > 1
    found = zip(told["row"], told["start"], told["end"], strict=True)
    assert [texts[row][start:end] for row, start, end in found] == told["word"]
    assert set(told["label"]) <= {"B-PER", "I-PER"}
    assert sorted(told["row"]) == told["row"].tolist()


async def test_each_proposal_says_for_which_mask_of_which_text_it_is() -> None:
    async with ready(FakeEngine({MODEL: "fill-mask"})) as subject:
        answer = await infer(subject, text("[MASK]", "w0 [MASK] [MASK]"), parameters={"top_k": 2})
        row = subject.engine.device.row

    told = outputs(answer)
    assert list(told) == ["row", "mask", "token", "word", "sequence", "score"]
    assert told["row"].tolist() == [0, 0, 1, 1, 1, 1]
    assert told["mask"].tolist() == [0, 0, 0, 0, 1, 1]
    assert told["token"][:2].tolist() == ranked(row([2, MASK, 3], "mask logits")[0], 2)


async def test_each_term_says_which_text_it_is_of() -> None:
    async with ready(FakeEngine({MODEL: "sparse"})) as subject:
        answer = await infer(subject, text("w0", "w1"))
        weights = np.stack([subject.engine.device.row([2, each, 3], "term weights") for each in (W0, W1)])

    told = outputs(answer)
    dense = np.zeros((2, VOCABULARY), np.float32)
    dense[told["row"], told["token"]] = told["weight"]
    np.testing.assert_array_equal(dense, np.maximum(weights, 0))


@pytest.mark.parametrize("task", ["token-classify", "fill-mask"])
async def test_tasks_that_need_the_text_do_not_take_token_ids(task: str) -> None:
    async with ready(FakeEngine({MODEL: task})) as subject:
        assert "input_ids: is no input of this model; it takes: text" in refused(await infer(subject, IDS), subject)


@pytest.mark.parametrize("task", ["embed", "rerank", "classify", "token-classify", "fill-mask", "sparse"])
async def test_the_metadata_and_the_configuration_tell_what_a_model_gives(task: str) -> None:
    texts = (
        [text("[MASK] w4 w5 w6", "[MASK] w7 w8")] if task != "rerank" else [text("w0", name="query"), text("w1", "w2")]
    )
    async with ready(FakeEngine({MODEL: task})) as subject:
        told = (await subject.http.get(f"/v2/models/{MODEL}")).json()
        config = (await subject.http.get(f"/v2/models/{MODEL}/config")).json()
        answer = await infer(subject, *texts)

    assert {name: told[name] for name in ("name", "versions", "platform")} == {
        "name": MODEL,
        "versions": ["1"],
        "platform": "headrace",
    }
    given = [(one["name"], one["datatype"]) for one in answer.json()["outputs"]]
    assert [(one["name"], one["datatype"]) for one in told["outputs"]] == given
    for one, promised in zip(answer.json()["outputs"], told["outputs"], strict=True):
        assert len(one["shape"]) == len(promised["shape"])
        assert all(wanted in (-1, size) for size, wanted in zip(one["shape"], promised["shape"], strict=True))
    first = 1 if config["max_batch_size"] else 0
    for side, other in (("input", "inputs"), ("output", "outputs")):
        assert [one["dims"] for one in config[side]] == [one["shape"][first:] for one in told[other]]
    assert (first == 1) == all(one["shape"][0] == 2 for one in answer.json()["outputs"])


async def test_the_configuration_tells_the_limits_of_a_call() -> None:
    async with ready(settings=Settings(http=HttpConfig(max_priority=5))) as subject:
        config = (await subject.http.get(f"/v2/models/{MODEL}/config")).json()

    assert config["max_batch_size"] == subject.settings.engine.limits.max_items
    assert config["dynamic_batching"]["priority_levels"] == 15
    assert config["dynamic_batching"]["default_priority_level"] == 6


async def test_the_server_tells_its_name_and_what_it_can() -> None:
    async with ready() as subject:
        told = (await subject.http.get("/v2")).json()

    assert told["name"] == "headrace"
    assert {"binary_tensor_data", "model_configuration", "schedule_policy", "statistics"} <= set(told["extensions"])


async def test_models_are_listed_as_kserve_and_as_triton_do() -> None:
    async with ready(FakeEngine(names=("one", "two"))) as subject:
        names = (await subject.http.get("/v2/models")).json()
        states = [await subject.http.post("/v2/repository/index", content=raw) for raw in (b"", b'{"ready": true}')]
        wrong = await subject.http.post("/v2/repository/index", content=b'{"redy": true}')

    assert names == {"models": ["one", "two"]}
    wanted = [{"name": name, "version": "1", "state": "READY", "reason": ""} for name in ("one", "two")]
    assert [state.json() for state in states] == [wanted, wanted]
    assert "redy" in refused(wrong, subject)


async def test_health_follows_the_state_of_the_replica() -> None:
    paths = ("/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready")
    subject = gateway()
    starting = [await subject.http.get(path) for path in paths]
    await subject.lifecycle.start()
    serving = [await subject.http.get(path) for path in paths]
    subject.lifecycle.drain()
    draining = [await subject.http.get(path) for path in paths]
    await subject.lifecycle.stop()

    assert [answer.status_code for answer in starting] == [200, 503, 503]
    assert [answer.json() for answer in serving] == [{"live": True}, {"ready": True}, {"name": MODEL, "ready": True}]
    assert {answer.status_code for answer in serving} == {200}
    assert [answer.status_code for answer in draining] == [200, 503, 503]
    assert [answer.json() for answer in draining] == [
        {"live": True},
        {"ready": False},
        {"name": MODEL, "ready": False},
    ]


async def test_statistics_count_calls_inferences_and_batches() -> None:
    subject, reported = gateway(), threading.Event()
    record = subject.engine.observer

    def observe(event: Dispatched | Report) -> None:  # on the device's thread, after the answer has left it
        record(event)
        if isinstance(event, Report):
            reported.set()

    subject.engine.observer = observe
    await subject.lifecycle.start()
    await infer(subject, text("w0", "w1"))
    await infer(subject, text(""))
    assert await asyncio.to_thread(reported.wait, 30)
    one = (await subject.http.get(f"/v2/models/{MODEL}/stats")).json()
    everything = (await subject.http.get("/v2/models/stats")).json()
    await subject.lifecycle.stop()

    (told,) = one["model_stats"]
    stats = told["inference_stats"]
    assert everything == one
    assert (told["name"], told["version"]) == (MODEL, "1")
    assert (told["inference_count"], told["execution_count"]) == (2, 1)
    assert [stats[part]["count"] for part in ("success", "fail", "queue", "compute_infer")] == [1, 1, 1, 1]
    assert stats["success"]["ns"] >= stats["queue"]["ns"] + stats["compute_infer"]["ns"] > 0
    assert told["last_inference"] > 0


@pytest.mark.parametrize("end", ["", "/ready", "/config", "/stats", "/infer"])
@pytest.mark.parametrize(("version", "status"), [("1", 200), ("2", 404), ("x", 404)])
async def test_a_model_has_one_version(end: str, version: str, status: int) -> None:
    path = f"/v2/models/{MODEL}/versions/{version}{end}"
    async with ready() as subject:
        call = subject.http.post(path, json={"inputs": [text("w0")]}) if end == "/infer" else subject.http.get(path)
        answer = await call

    assert answer.status_code == status
    assert status == 200 or answer.json()["error"].startswith("version: tiny has no version")


@pytest.mark.parametrize("end", ["", "/ready", "/config", "/stats", "/infer"])
async def test_an_unknown_model_is_named(end: str) -> None:
    async with ready() as subject:
        answer = await subject.http.request("POST" if end == "/infer" else "GET", f"/v2/models/nobody{end}")

    assert "'nobody' is not served" in refused(answer, subject, 404)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("DELETE", f"/v2/models/{MODEL}", 405),
        ("POST", "/v2", 405),
        ("GET", "/v2/repository/index", 405),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/", 404),
        ("POST", f"{INFER}/", 404),
        ("POST", f"/v2/models/{MODEL}/infer_stream", 404),
        ("POST", f"/v2/repository/models/{MODEL}/load", 403),
        ("POST", f"/v2/repository/models/{MODEL}/unload", 403),
        ("GET", "/v2/systemsharedmemory/status", 400),
        ("POST", "/v2/systemsharedmemory/region/r/register", 400),
        ("GET", "/v2/cudasharedmemory/region/r/status", 400),
        ("POST", "/v2/trace/setting", 400),
        ("GET", f"/v2/models/{MODEL}/trace/setting", 400),
        ("GET", "/v2/logging", 400),
        ("POST", f"/v2/models/{MODEL}/generate", 400),
    ],
)
async def test_what_is_not_served_says_so_in_the_dialects_shape(method: str, path: str, status: int) -> None:
    async with ready() as subject:
        refused(await subject.http.request(method, path), subject, status)


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (Overloaded("queue full", 0.25), 429),
        (Unavailable("starting"), 503),
        (DeadlineExceeded("too late"), 504),
        (RuntimeFailed("secret"), 500),
        (ValueError("secret"), 500),
    ],
)
async def test_trouble_here_has_the_dialects_shape_and_no_secrets(raised: Exception, status: int) -> None:
    async with ready() as subject:
        subject.engine.error = raised
        answer = await infer(subject, text("w0"))

    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) == (status in {429, 503})


async def test_a_body_over_the_limit_is_refused() -> None:
    settings = Settings(http=replace(Settings().http, max_body_bytes=100))
    async with ready(settings=settings) as subject:
        refused(await infer(subject, text("w0 " * 100)), subject, 413)


async def test_a_caller_that_leaves_frees_its_place() -> None:
    async with ready() as subject:
        subject.engine.device.gate.clear()
        calling = asyncio.create_task(infer(subject, text("w0")))
        await subject.engine.until(lambda: len(subject.engine.submitted) == 1)
        calling.cancel()
        await subject.engine.until(lambda: subject.engine.cancelled == 1)


async def test_calls_are_counted_under_the_route_and_not_under_its_text() -> None:
    async with ready() as subject:
        await infer(subject, text("w0"))
        await subject.http.post("/v2/models/nobody/infer", json={})

    labels = {"route": "/v2/models/{model}/infer", "model": MODEL, "outcome": "ok"}
    assert subject.metric("headrace_requests_total", **labels) == 1
    assert "nobody" not in subject.exposition()
