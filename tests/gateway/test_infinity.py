import base64

import numpy as np
import pytest

from gateway.config import HttpConfig, Settings
from inference.labels import sigmoid, softmax
from tests.gateway.fakes import MAX_LENGTH, FakeEngine, numbers, ready, vector

pytestmark = pytest.mark.anyio

W0, W1 = 4, 5
ALL = {"e": "embed", "r": "rerank", "c": "classify"}


def below(prefix: str) -> Settings:
    return Settings(http=HttpConfig(url_prefix=prefix))


async def test_embeddings_are_cut_and_numbered() -> None:
    async with ready() as subject:
        answer = await subject.post("/infinity/embeddings", input=["w0", "w1 " * 40], dimensions=0, user="x")

    body = answer.json()
    read = np.float32([item["embedding"] for item in body["data"]])
    np.testing.assert_allclose(read, [vector([2, W0, 3]), vector([2, *[W1] * 14, 3])], rtol=1e-6)
    assert body["usage"]["total_tokens"] == 3 + MAX_LENGTH
    assert body["id"] == f"infinity-{answer.headers['x-request-id']}"
    assert isinstance(body["created"], int)


async def test_embeddings_may_be_base64() -> None:
    async with ready() as subject:
        answer = await subject.post("/infinity/embeddings", input="w0", encoding_format="base64")

    read = np.frombuffer(base64.b64decode(answer.json()["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(read, vector([2, W0, 3]), rtol=1e-6)


async def test_documents_come_back_as_plain_text() -> None:
    async with ready(FakeEngine(ALL)) as subject:
        told = await subject.post("/infinity/rerank", query="w0", documents=["w1", "w2"], return_documents=True)
        bare = await subject.post("/infinity/rerank", query="w0", documents=["w1", "w2"], top_n=1, raw_scores=True)

    logits = np.concatenate([numbers([2, W0, 3, W1 + i, 3], 1) for i in range(2)])
    order = np.argsort(-logits).tolist()
    assert [item["document"] for item in told.json()["results"]] == [f"w{i + 1}" for i in order]
    np.testing.assert_array_equal(
        np.float32([item["relevance_score"] for item in told.json()["results"]]), sigmoid(logits)[order]
    )
    (best,) = bare.json()["results"]
    assert (np.float32(best["relevance_score"]), best["index"], best["document"]) == (logits.max(), order[0], None)
    assert told.json()["object"] == "rerank"


@pytest.mark.parametrize("raw", [False, True])
async def test_labels_come_best_first(raw: bool) -> None:
    async with ready(FakeEngine({"c": "classify"})) as subject:
        answer = await subject.post("/infinity/classify", input=["w0"], raw_scores=raw)

    logits = numbers([2, W0, 3], 3)
    (row,) = answer.json()["data"]
    found = np.float32([item["score"] for item in row])
    np.testing.assert_array_equal(found, np.sort(logits if raw else softmax(logits))[::-1])
    assert answer.json()["object"] == "classify"


async def test_models_tell_their_load_and_what_they_can_do() -> None:
    async with ready(FakeEngine(ALL)) as subject:
        answer = await subject.http.get("/infinity/models")

    assert {item["id"]: item["capabilities"] for item in answer.json()["data"]} == {
        "e": ["embed"],
        "r": ["rerank", "classify"],
        "c": ["classify"],
    }
    assert answer.json()["data"][0]["stats"] == {
        "queue_fraction": 0.0,
        "queue_absolute": 0,
        "results_pending": 0,
        "batch_size": 0,
    }


@pytest.mark.parametrize("prefix", ["", "/v1", "/a/b"])
async def test_the_prefix_is_the_operators_and_is_ahead_of_other_dialects(prefix: str) -> None:
    async with ready(FakeEngine(ALL), below(prefix)) as subject:
        embedded = await subject.post(f"{prefix}/embeddings", input="w0 " * 40)
        ranked = await subject.post(f"{prefix}/rerank", query="w0", documents=["w1"])
        labelled = await subject.post(f"{prefix}/classify", input=["w0"], model="c")
        document = (await subject.http.get("/openapi.json")).json()

    assert embedded.json()["id"].startswith("infinity-")
    assert ranked.json()["object"] == "rerank"
    assert labelled.json()["object"] == "classify"
    assert "summary" in document["paths"][f"{prefix}/classify"]["post"]


async def test_without_a_prefix_tei_keeps_its_bodies_of_rerank() -> None:
    async with ready(FakeEngine(ALL), below("")) as subject:
        answer = await subject.post("/rerank", query="w0", texts=["w1"])

    assert answer.json()[0].keys() == {"index", "score"}


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/infinity/embeddings", {"input": "w0", "model": "nobody"}, 404, "model"),
        ("/infinity/embeddings", {"input": [W0]}, 400, "input[0]"),
        ("/infinity/embeddings", {"input": "w0", "modality": "image"}, 400, "modality"),
        ("/infinity/rerank", {"query": "", "documents": ["w0"]}, 400, "query"),
        ("/infinity/rerank", {"query": "w0", "documents": ["w0"], "top_n": 0}, 400, "top_n"),
        ("/infinity/classify", {"input": "w0"}, 400, "input"),
        ("/infinity/classify", {"input": ["w0"]}, 400, "model"),
    ],
    ids=str,
)
async def test_errors_are_nested_and_their_code_is_the_status(path: str, body: dict, status: int, field: str) -> None:
    async with ready(FakeEngine({"e": "embed"}) if path.endswith("classify") else FakeEngine(ALL)) as subject:
        answer = await subject.post(path, **body)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"], error["type"]) == (status, status, field, None)
    assert subject.engine.submitted == []
