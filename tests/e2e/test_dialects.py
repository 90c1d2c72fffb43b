"""Over HTTP, by each dialect: what Transformers' own pipelines and models give for the same input."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cohere
import httpx2
import numpy as np
import openai
import pytest
import torch
from huggingface_hub import InferenceClient
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from tests.architectures import build
from tests.e2e.conftest import Headrace

pytestmark = pytest.mark.e2e

TEXT = "The miller opened the gate, waited for the wheel to turn, and poured the first sack of grain."
OTHERS = ["Many small streams meet in one channel.", "le meunier", TEXT * 3]
NLI = ("contradiction", "neutral", "entailment")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, minilm_path: Path) -> dict[str, Path]:
    """A model for every task."""
    root = tmp_path_factory.mktemp("tasks")
    return {
        "minilm": minilm_path,
        "judge": build("bert", "SequenceClassification", root / "judge", labels=("LABEL_0",)),
        "nli": build("roberta", "SequenceClassification", root / "nli", labels=NLI),
        "tagger": build("bert", "TokenClassification", root / "tagger", labels=("O", "B-PER", "I-PER")),
        "words": build("bert", "MaskedLM", root / "words"),
    }


@pytest.fixture(scope="module")
def url(paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where one process serves them all."""
    models = [word for name, path in paths.items() for word in ("--model", f"{name}={path}")]
    server = Headrace(tmp_path_factory.mktemp("served") / "log", "--no-access-log", "--threads", "1", *models)
    try:
        yield server.url
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=60) as client:
        yield client


def reference(task: str, path: Path, **options: Any) -> Any:
    """A pipeline of Transformers on the CPU."""
    return pipeline(task, model=str(path), device="cpu", **options)


def logits(path: Path, *pair: str) -> torch.Tensor:
    """What the plain model says of a text or a pair: [labels]."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.inference_mode():
        return model(**tokenizer(*pair, return_tensors="pt", truncation=True, max_length=128)).logits[0]


def test_texts_are_classified_alike(url: str, http: httpx2.Client, paths: dict[str, Path]) -> None:
    (labels,) = reference("text-classification", paths["nli"], top_k=None)([TEXT])
    expected = {item["label"]: item["score"] for item in labels}

    answers = [
        {item.label: item.score for item in InferenceClient(f"{url}/models/nli").text_classification(TEXT)},
        {item["label"]: item["score"] for item in post(http, "/predict", inputs=TEXT, model="nli")},
        dict(zip(NLI, post(http, "/classify", input=TEXT, model="nli")["data"][0]["probs"], strict=True)),
        {
            item["label"]: item["score"]
            for item in post(http, "/infinity/classify", input=[TEXT], model="nli")["data"][0]
        },
    ]

    assert answers == [pytest.approx(expected, abs=1e-5)] * 4


def test_own_labels_fit_alike(url: str, paths: dict[str, Path]) -> None:
    labels = ["milling", "sailing", "water"]
    expected = reference("zero-shot-classification", paths["nli"])(TEXT, labels, multi_label=True)

    found = InferenceClient(f"{url}/models/nli").zero_shot_classification(TEXT, labels, multi_label=True)

    told = dict(zip(expected["labels"], expected["scores"], strict=True))
    assert {item.label: item.score for item in found} == pytest.approx(told, abs=1e-5)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_are_found_alike(url: str, paths: dict[str, Path], strategy: str) -> None:
    expected = reference("token-classification", paths["tagger"], aggregation_strategy=strategy)(TEXT)

    found = InferenceClient(f"{url}/models/tagger").token_classification(TEXT, aggregation_strategy=strategy)

    assert [(item.start, item.end, item.word, item.entity or item.entity_group) for item in found] == [
        (item["start"], item["end"], item["word"], item.get("entity") or item["entity_group"]) for item in expected
    ]
    np.testing.assert_allclose([item.score for item in found], [item["score"] for item in expected], atol=1e-5)


def test_masks_are_filled_alike(url: str, paths: dict[str, Path]) -> None:
    text = "The miller opened the [MASK]."
    expected = reference("fill-mask", paths["words"])(text)

    found = InferenceClient(f"{url}/models/words").fill_mask(text)

    assert [(item.token, item.token_str, item.sequence) for item in found] == [
        (item["token"], item["token_str"], item["sequence"]) for item in expected
    ]
    np.testing.assert_allclose([item.score for item in found], [item["score"] for item in expected], atol=1e-5)


def test_pairs_are_ranked_alike(http: httpx2.Client, paths: dict[str, Path]) -> None:
    expected = [float(torch.sigmoid(logits(paths["judge"], TEXT, other))[0]) for other in OTHERS]
    jina = {"query": TEXT, "documents": OTHERS, "model": "judge"}

    answers = [
        [(item["index"], item["relevance_score"]) for item in post(http, path, **jina)["results"]]
        for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/infinity/rerank")
    ]
    answers.append(
        [(item["index"], item["score"]) for item in post(http, "/rerank", query=TEXT, texts=OTHERS, model="judge")]
    )

    for answer in answers:
        assert dict(answer) == pytest.approx(dict(enumerate(expected)), abs=1e-5)
        assert [index for index, _ in answer] == sorted(range(3), key=lambda index: -expected[index])


def test_every_way_to_a_vector_gives_the_same_one(url: str, http: httpx2.Client) -> None:
    expected = post(http, "/v1/embeddings", input=TEXT, model="minilm")["data"][0]["embedding"]

    answers = [
        post(http, "/embed", inputs=TEXT)[0],
        post(http, "/embeddings", input=TEXT)["data"][0]["embedding"],
        post(http, "/infinity/embeddings", input=TEXT)["data"][0]["embedding"],
        post(http, "/v2/embed", texts=[TEXT], model="minilm")["embeddings"]["float"][0],
        post(http, "/pooling", input=TEXT, model="minilm", task="embed")["data"][0]["data"],
        InferenceClient(f"{url}/models/minilm").feature_extraction(TEXT).tolist(),
    ]

    for answer in answers:
        np.testing.assert_allclose(answer, expected, atol=1e-6)


def post(http: httpx2.Client, path: str, **body: object) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_clients_of_others_read_the_same_vectors(url: str, http: httpx2.Client) -> None:
    expected = [item["embedding"] for item in post(http, "/v1/embeddings", input=OTHERS, model="minilm")["data"]]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        official = [item.embedding for item in client.embeddings.create(model="minilm", input=OTHERS).data]
    chained = OpenAIEmbeddings(
        model="minilm", base_url=f"{url}/v1", api_key=SecretStr("x"), check_embedding_ctx_length=False
    ).embed_documents(OTHERS)
    with cohere.ClientV2("x", base_url=url) as coherent:
        answer = coherent.embed(model="minilm", input_type="search_document", texts=OTHERS, embedding_types=["float"])

    for vectors in (official, chained, answer.embeddings.float_):
        np.testing.assert_allclose(np.float32(vectors), np.float32(expected), atol=1e-6)


def test_coheres_client_ranks_as_the_model_does(url: str, paths: dict[str, Path]) -> None:
    expected = [float(torch.sigmoid(logits(paths["judge"], TEXT, other))[0]) for other in OTHERS]

    with cohere.ClientV2("x", base_url=url) as client:
        found = client.rerank(model="judge", query=TEXT, documents=OTHERS)

    scores = {item.index: item.relevance_score for item in found.results}
    assert [scores[index] for index in range(len(OTHERS))] == pytest.approx(expected, abs=1e-5)
