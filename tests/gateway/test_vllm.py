import base64

import numpy as np
import pytest

from inference import Overloaded
from inference.labels import sigmoid, softmax
from tests.gateway.fakes import HIDDEN, MAX_LENGTH, FakeEngine, numbers, ready, vector

pytestmark = pytest.mark.anyio

W0, W1 = 4, 5
LONG = "w0 " * 30
LABELS = ("contradiction", "neutral", "entailment")
ALL = {"e": "embed", "r": "rerank", "c": "classify", "t": "token-classify", "s": "sparse"}


@pytest.mark.parametrize("activated", [None, True, False])
async def test_labels_keep_the_order_of_the_model(activated: bool | None) -> None:
    async with ready(FakeEngine({"c": "classify"})) as subject:
        answer = await subject.post("/classify", input=["w0", "w1"], use_activation=activated)

    logits = numbers([2, W0, 3], 3)
    body, first = answer.json(), answer.json()["data"][0]
    np.testing.assert_array_equal(np.float32(first["probs"]), logits if activated is False else softmax(logits))
    assert (first["index"], first["label"], first["num_classes"]) == (0, LABELS[int(logits.argmax())], 3)
    assert (body["object"], body["model"], len(body["data"])) == ("list", "c", 2)
    assert body["usage"] == {"prompt_tokens": 6, "total_tokens": 6, "completion_tokens": 0}
    assert body["id"] == f"classify-{answer.headers['x-request-id']}"


async def test_token_ids_are_classified_as_given() -> None:
    async with ready(FakeEngine({"c": "classify"})) as subject:
        answer = await subject.post("/classify", input=[W0, W1])

    np.testing.assert_array_equal(np.float32(answer.json()["data"][0]["probs"]), softmax(numbers([W0, W1], 3)))


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"), ("queries", "items")]
)
async def test_one_text_is_scored_against_many_whatever_they_are_called(path: str, names: tuple[str, str]) -> None:
    async with ready(FakeEngine({"r": "rerank", "e": "embed"})) as subject:
        answer = await subject.post(path, **{names[0]: "w0", names[1]: ["w1", "w2"]})

    expected = sigmoid(np.concatenate([numbers([2, W0, 3, 5 + i, 3], 1) for i in range(2)]))
    assert [item["index"] for item in answer.json()["data"]] == [0, 1]
    np.testing.assert_array_equal(np.float32([item["score"] for item in answer.json()["data"]]), expected)


async def test_as_many_on_both_sides_are_pairs_and_scores_may_be_raw() -> None:
    async with ready(FakeEngine({"r": "rerank"})) as subject:
        answer = await subject.post("/score", text_1=["w0", "w1"], text_2=["w2", "w3"], use_activation=False)

    expected = np.concatenate([numbers([2, W0 + i, 3, W0 + 2 + i, 3], 1) for i in range(2)])
    np.testing.assert_array_equal(np.float32([item["score"] for item in answer.json()["data"]]), expected)


@pytest.mark.parametrize("normalised", [True, False])
async def test_an_embedder_scores_by_cosine(normalised: bool) -> None:
    async with ready(FakeEngine({"r": "rerank", "e": "embed"}, normalised=normalised)) as subject:
        answer = await subject.post("/score", text_1="w0", text_2=["w1", "w0"], model="e")

    scores = [item["score"] for item in answer.json()["data"]]
    np.testing.assert_allclose(scores, [vector([2, W0, 3]) @ vector([2, W1, 3]), 1], rtol=1e-5)


async def test_pooling_gives_a_vector_for_each_token_by_default() -> None:
    async with ready() as subject:
        answer = await subject.post("/pooling", input="w0")
        raw = await subject.post("/pooling", input="w0", use_activation=False, task="token_embed")
        packed = await subject.post("/pooling", input="w0", use_activation=False, encoding_format="base64")

    expected = np.stack([numbers([id_], HIDDEN) for id_ in (2, W0, 3)])
    np.testing.assert_array_equal(np.float32(raw.json()["data"][0]["data"]), expected)
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(packed.json()["data"][0]["data"]), "<f4").reshape(3, -1), expected
    )
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(answer.json()["data"][0]["data"], expected / lengths, rtol=1e-5)
    assert answer.json()["data"][0]["object"] == "pooling"


async def test_pooling_gives_one_vector_where_it_is_asked_for() -> None:
    async with ready() as subject:
        answer = await subject.post("/pooling", input=["w0"], task="embed", dimensions=8)
        raw = await subject.post("/pooling", input=["w0"], task="embed", use_activation=False)

    np.testing.assert_allclose(np.linalg.norm(answer.json()["data"][0]["data"]), 1, rtol=1e-5)
    assert len(answer.json()["data"][0]["data"]) == 8
    np.testing.assert_allclose(np.linalg.norm(raw.json()["data"][0]["data"]), 3, rtol=1e-5)


@pytest.mark.parametrize("activated", [True, False])
async def test_pooling_gives_what_a_classifier_or_tagger_says(activated: bool) -> None:
    read = softmax if activated else np.asarray

    async with ready(FakeEngine(ALL)) as subject:
        whole = await subject.post("/pooling", input="w0", model="c", use_activation=activated)
        tokens = await subject.post("/pooling", input="w0", model="t", use_activation=activated)

    np.testing.assert_array_equal(np.float32(whole.json()["data"][0]["data"]), read(numbers([2, W0, 3], 3)))
    expected = read(np.stack([numbers([id_], 3) for id_ in (2, W0, 3)]))
    np.testing.assert_array_equal(np.float32(tokens.json()["data"][0]["data"]), expected)


@pytest.mark.parametrize("most", [-1, MAX_LENGTH])
@pytest.mark.parametrize(("side", "ids"), [("right", [2, *[W0] * 14, 3]), ("left", [2, *[W0] * 13, W1, 3])])
async def test_long_texts_are_cut_where_the_body_says(most: int, side: str, ids: list[int]) -> None:
    async with ready() as subject:
        answer = await subject.post(
            "/pooling", input="w0 " * 30 + "w1", task="embed", truncate_prompt_tokens=most, truncation_side=side
        )

    np.testing.assert_array_equal(np.float32(answer.json()["data"][0]["data"]), vector(ids))


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/classify", {"input": "w0 " * 30, "model": "c"}, 400, "input"),
        ("/classify", {"input": "w0", "model": "c", "truncate_prompt_tokens": 5}, 400, "truncate_prompt_tokens"),
        ("/classify", {"input": "w0", "model": "c", "truncate_prompt_tokens": -2}, 400, "truncate_prompt_tokens"),
        ("/classify", {"input": "w0", "model": "e"}, 400, "model"),
        ("/classify", {"input": "w0", "model": "nobody"}, 404, "model"),
        ("/classify", {"input": [], "model": "c"}, 400, "input"),
        ("/classify", {"messages": []}, 400, "messages"),
        ("/score", {"text_1": "w0"}, 400, "text_2"),
        ("/score", {"text_2": "w0"}, 400, "text_1"),
        ("/score", {"text_1": "w0", "data_1": "w0", "text_2": "w0"}, 400, "text_1"),
        ("/score", {"text_1": ["w0", "w1"], "text_2": ["w0"]}, 400, "text_1"),
        ("/score", {"text_1": "w0", "text_2": ["w0", LONG], "model": "r"}, 400, "text_2[1]"),
        ("/score", {"text_1": "w0", "documents": LONG, "model": "r"}, 400, "documents"),
        ("/score", {"queries": LONG, "text_2": ["w0"], "model": "r"}, 400, "queries"),
        ("/score", {"text_1": "w0", "text_2": ["w0", LONG], "model": "e"}, 400, "text_2[1]"),
        ("/score", {"data_1": ["w0", LONG], "text_2": ["w1", "w0"], "model": "e"}, 400, "data_1[1]"),
        ("/score", {"text_1": ["w0", ""], "text_2": ["w0", "w1"]}, 400, "text_1"),
        ("/score", {"text_1": "w0", "text_2": []}, 400, "text_2"),
        ("/score", {"text_1": "w0", "text_2": "w0", "model": "c"}, 400, "model"),
        ("/pooling", {"input": "w0", "model": "e", "task": "classify"}, 400, "model"),
        ("/pooling", {"input": "w0", "model": "e", "dimensions": 8}, 400, "dimensions"),
        ("/pooling", {"input": "w0", "model": "s"}, 400, "task"),
        ("/pooling", {"input": [W0], "model": "t"}, 400, "input"),
        ("/pooling", {"input": "w0"}, 400, "model"),
    ],
    ids=str,
)
async def test_errors_are_nested_and_their_code_is_the_status(
    path: str, body: dict, status: int, field: str | None
) -> None:
    async with ready(FakeEngine(ALL)) as subject:
        answer = await subject.post(path, **body)

    error = answer.json()["error"]
    kind = "NotFoundError" if status == 404 else "BadRequestError"
    assert (answer.status_code, error["code"], error["param"], error["type"]) == (status, status, field, kind)
    assert subject.engine.submitted == []


async def test_a_refusal_says_when_to_come_back() -> None:
    async with ready(FakeEngine({"c": "classify"})) as subject:
        subject.engine.error = Overloaded("queue full", 1.5)
        answer = await subject.post("/classify", input="w0")

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.json()["error"]["type"] == "RateLimitError"
