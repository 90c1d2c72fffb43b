import base64

import numpy as np
import pytest

from gateway.vectors import encoded
from tests.gateway.fakes import HIDDEN, MODEL, FakeEngine, ready, vector

pytestmark = pytest.mark.anyio

W0, W1 = 4, 5


async def test_texts_are_answered_with_lists_of_vectors_by_type() -> None:
    async with ready() as subject:
        answer = await subject.post("/v2/embed", texts=["w0", "w1"], model=MODEL, input_type="classification")

    body = answer.json()
    np.testing.assert_array_equal(np.float32(body["embeddings"]["float"]), [vector([2, W0, 3]), vector([2, W1, 3])])
    assert body["embeddings"].keys() == {"float"}
    assert body["texts"] == ["w0", "w1"]
    assert body["meta"] == {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 6}}
    assert (body["id"], body["response_type"]) == (answer.headers["x-request-id"], "embeddings_by_type")


async def test_every_type_that_is_asked_for_is_there() -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]

    async with ready() as subject:
        answer = await subject.post("/v2/embed", texts=["w0"], embedding_types=kinds)

    told = answer.json()["embeddings"]
    assert list(told) == kinds
    for kind in ("int8", "uint8", "binary", "ubinary"):
        np.testing.assert_array_equal(told[kind][0], encoded(vector([2, W0, 3]), kind))
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(told["base64"][0]), "<f4"), vector([2, W0, 3]))
    assert len(told["binary"][0]) == HIDDEN // 8


@pytest.mark.parametrize(
    ("kind", "ids"),
    [("search_query", [2, 11, W0, 3]), ("search_document", [2, W0, 3]), ("clustering", [2, W0, 3]), (None, [2, W0, 3])],
)
async def test_the_kind_of_input_finds_the_models_prompt(kind: str | None, ids: list[int]) -> None:
    async with ready() as subject:
        answer = await subject.post("/v2/embed", texts=["w0"], input_type=kind)

    np.testing.assert_array_equal(np.float32(answer.json()["embeddings"]["float"]), [vector(ids)])


@pytest.mark.parametrize(
    ("truncate", "ids"),
    [(None, [2, *[W0] * 14, 3]), ("END", [2, *[W0] * 14, 3]), ("START", [2, *[W0] * 13, W1, 3])],
)
async def test_a_long_text_is_cut_where_the_body_says(truncate: str | None, ids: list[int]) -> None:
    async with ready() as subject:
        answer = await subject.post("/v2/embed", texts=["w0 " * 30 + "w1"], truncate=truncate)

    np.testing.assert_array_equal(np.float32(answer.json()["embeddings"]["float"]), [vector(ids)])


async def test_inputs_hold_their_text_in_parts_and_vectors_may_be_shorter() -> None:
    async with ready() as subject:
        inputs = [{"content": [{"type": "text", "text": "w0"}]}]
        answer = await subject.post("/v2/embed", inputs=inputs, output_dimension=8, max_tokens=4096)

    (row,) = answer.json()["embeddings"]["float"]
    assert len(row) == 8
    np.testing.assert_allclose(np.linalg.norm(row), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"texts": ["w0 " * 30], "truncate": "NONE"}, "texts[0]"),
        ({"texts": []}, "texts"),
        ({"texts": ["w0", ""]}, "texts[1]"),
        ({}, "texts"),
        ({"texts": ["w0"], "inputs": []}, "texts"),
        ({"inputs": [{"content": []}]}, "inputs[0].content"),
        ({"inputs": [{"content": [{"type": "image_url", "text": "x"}]}]}, "inputs[0].content[0].type"),
        ({"texts": ["w0"], "images": ["x"]}, "images"),
        ({"texts": ["w0"], "input_type": "image"}, "input_type"),
        ({"texts": ["w0"], "max_tokens": 8}, "max_tokens"),
        ({"texts": ["w0"], "embedding_types": ["half"]}, "embedding_types[0]"),
        ({"texts": ["w0"], "priority": 0}, "priority"),
        ({"texts": ["w0"], "output_dimension": 0}, "output_dimension"),
    ],
    ids=str,
)
async def test_a_mistake_has_a_message_that_names_the_field(body: dict, field: str) -> None:
    async with ready() as subject:
        answer = await subject.post("/v2/embed", **body)

    assert answer.status_code == 400
    assert answer.json().keys() == {"message"}
    assert answer.json()["message"].startswith(f"{field}: ")
    assert subject.engine.submitted == []


async def test_a_model_that_cannot_embed_says_what_it_can() -> None:
    async with ready(FakeEngine({"c": "classify"})) as subject:
        answer = await subject.post("/v2/embed", texts=["w0"])

    assert answer.status_code == 400
    assert "c can classify, zero-shot" in answer.json()["message"]
