import numpy as np
import pytest

from inference import Overloaded
from inference.labels import sigmoid
from tests.gateway.fakes import MAX_LENGTH, FakeEngine, numbers, ready

pytestmark = pytest.mark.anyio

PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")
TEXTS = ["w1", "w2", "w3", "w4"]


def scores(texts: list[str]) -> np.ndarray:
    ids = [[2, 4, 3, *(int(word[1:]) + 4 for word in text.split()), 3] for text in texts]
    return sigmoid(np.concatenate([numbers(each, 1) for each in ids]))


def judge() -> FakeEngine:
    return FakeEngine({"judge": "rerank", "e": "embed"})


@pytest.mark.parametrize("path", PATHS)
async def test_documents_are_ranked_best_first(path: str) -> None:
    async with ready(judge()) as subject:
        answer = await subject.post(path, query="w0", documents=TEXTS, top_n=3, return_documents=True)

    body, expected = answer.json(), scores(TEXTS)
    order = np.argsort(-expected)[:3].tolist()
    assert [item["index"] for item in body["results"]] == order
    assert [item["document"] for item in body["results"]] == [{"text": TEXTS[index]} for index in order]
    np.testing.assert_array_equal(np.float32([item["relevance_score"] for item in body["results"]]), expected[order])
    assert (body["model"], body["usage"]) == ("judge", {"prompt_tokens": 20, "total_tokens": 20})
    assert body["id"] == answer.headers["x-request-id"]
    assert "server-timing" in answer.headers


@pytest.mark.parametrize(("path", "told"), [("/rerank", True), ("/v1/rerank", True), ("/v2/rerank", False)])
async def test_documents_come_back_where_the_peer_returns_them(path: str, told: bool) -> None:
    async with ready(judge()) as subject:
        answer = await subject.post(path, query="w0", documents=["w1"])

    assert ("document" in answer.json()["results"][0]) is told


async def test_a_document_may_be_an_object_with_its_text() -> None:
    async with ready(judge()) as subject:
        answer = await subject.post("/v1/rerank", query="w0", documents=[{"text": "w1"}, "w1"])

    first, second = answer.json()["results"]
    assert first["relevance_score"] == second["relevance_score"]
    assert (first["index"], second["index"]) == (0, 1)


@pytest.mark.parametrize("path", PATHS)
async def test_a_document_that_is_too_long_is_cut(path: str) -> None:
    async with ready(judge()) as subject:
        answer = await subject.post(path, query="w0", documents=["w1 " * 40])

    assert answer.json()["usage"]["total_tokens"] == MAX_LENGTH


async def test_a_thousand_documents_keep_their_places() -> None:
    texts = [f"w{1 + i % 100}" for i in range(1000)]

    async with ready(judge()) as subject:
        answer = await subject.post("/v1/rerank", query="w0", documents=texts)

    found = {item["index"]: np.float32(item["relevance_score"]) for item in answer.json()["results"]}
    np.testing.assert_array_equal([found[i] for i in range(1000)], scores(texts))


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/rerank", {"query": "", "documents": ["w0"]}, "query"),
        ("/v1/rerank", {"query": "w0", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "w0", "documents": [5]}, "documents[0]"),
        ("/v1/rerank", {"query": "w0", "documents": ["w0"], "top_n": 0}, "top_n"),
        ("/v1/rerank", {"query": "w0", "documents": ["w0"], "topn": 1}, "topn"),
        ("/v1/rerank", {"query": "w0", "documents": ["w0"], "max_tokens_per_doc": 8}, "max_tokens_per_doc"),
        ("/v2/rerank", {"query": "w0", "documents": ["w0"], "max_tokens_per_doc": 8}, "max_tokens_per_doc"),
        ("/v2/rerank", {"query": "w0", "documents": ["w0"], "model": "e"}, "model"),
        ("/rerank", {"documents": ["w0"]}, "query"),
    ],
    ids=str,
)
async def test_a_mistake_is_told_where_both_clients_look(path: str, body: dict, field: str) -> None:
    async with ready(judge()) as subject:
        answer = await subject.post(path, **body)

    assert answer.status_code == 400
    assert answer.json()["message"] == answer.json()["detail"]
    assert answer.json()["message"].startswith(f"{field}: ")
    assert subject.engine.submitted == []


async def test_more_tokens_a_document_than_the_model_reads_change_nothing() -> None:
    async with ready(judge()) as subject:
        answer = await subject.post("/v2/rerank", query="w0", documents=["w1"], max_tokens_per_doc=4096)

    assert answer.status_code == 200


async def test_texts_make_it_the_other_dialect() -> None:
    async with ready(judge()) as subject:
        theirs = await subject.post("/rerank", query="w0", texts=["w1"])
        neither = await subject.post("/rerank", query="w0")

    assert theirs.json()[0].keys() == {"index", "score"}
    assert neither.json().keys() == {"message", "detail"}


async def test_a_refusal_says_when_to_come_back() -> None:
    async with ready(judge()) as subject:
        subject.engine.error = Overloaded("queue full", 1.5)
        answer = await subject.post("/v2/rerank", query="w0", documents=["w1"])

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
