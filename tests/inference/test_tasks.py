"""What a client answers for each task, with real models and tiny ones, beside Transformers' own pipelines."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, pipeline

from inference import (
    CannotServe,
    Classify,
    Client,
    DeviceConfig,
    Embed,
    Engine,
    EngineConfig,
    FillMask,
    Inputs,
    InvalidRequest,
    Limits,
    ModelSource,
    Rerank,
    Similarity,
    Sparse,
    Tag,
    Task,
    Terms,
    ZeroShot,
    ranked,
)
from inference.judge import question
from inference.spans import Aggregation
from tests.architectures import build

pytestmark = pytest.mark.anyio

TERMS = Terms(60.0, truncation="end")
NLI = ("contradiction", "neutral", "entailment")
TEXTS = (
    "My name is Maria Gonzalez and I live at 742 Evergreen Terrace, Springfield, Oregon 97477.",
    "Zoë Müller, 東京 🙂 — call (541) 555-0199!",
    "Nothing to see here.",
)
QUERY = "what is the capital of germany"
DOCUMENTS = (
    "Berlin is the capital and largest city of Germany.",
    "Munich is the capital of Bavaria.",
    "The wheel turns.",
)


@asynccontextmanager
async def serving(path: Path, task: Task | None = None) -> AsyncIterator[Client]:
    source = ModelSource("m", str(path), task=task)
    limits = Limits(latency_target_s=30.0, max_batch_tokens=256)  # small batches, so that the warm-up is short
    client = Client(Engine(EngineConfig((source,), device=DeviceConfig(("cpu",)), limits=limits)), limits)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def embedder(minilm_path: Path) -> AsyncIterator[Client]:
    async with serving(minilm_path) as client:
        yield client


@pytest.fixture(scope="module")
async def reranker(reranker_path: Path) -> AsyncIterator[Client]:
    async with serving(reranker_path) as client:
        yield client


@pytest.fixture(scope="module")
async def tagger(pii_tagger_path: Path) -> AsyncIterator[Client]:
    async with serving(pii_tagger_path) as client:
        yield client


def plain(task: str, path: Path, **options: Any) -> Any:
    return pipeline(task, model=str(path), device="cpu", dtype=torch.float32, **options)  # type: ignore[call-overload]


async def test_a_reranker_scores_as_transformers_does(reranker_path: Path, reranker: Client) -> None:
    reference = plain("text-classification", reranker_path, function_to_apply="none")
    expected = [reference({"text": QUERY, "text_pair": text})["score"] for text in DOCUMENTS]

    made = await reranker.rerank(Rerank(Inputs([(QUERY, text) for text in DOCUMENTS], "documents"), TERMS))

    assert [item.logit for item in made.items] == pytest.approx(expected, abs=1e-4)
    assert [item.score for item in made.items] == pytest.approx(1 / (1 + np.exp(-np.array(expected))), abs=1e-5)
    assert ranked([item.logit for item in made.items], 2) == [0, 1]


@pytest.mark.slow
async def test_a_thousand_documents_keep_their_order(reranker_path: Path, reranker: Client) -> None:
    documents = [f"{'water ' * (i % 10)} wheel {i}" for i in range(1000)]
    reference = plain("text-classification", reranker_path, function_to_apply="none")
    some = range(0, 1000, 97)

    made = await reranker.rerank(Rerank(Inputs([(QUERY, text) for text in documents], "documents"), TERMS))

    expected = [reference({"text": QUERY, "text_pair": documents[i]})["score"] for i in some]
    assert [made.items[i].logit for i in some] == pytest.approx(expected, abs=1e-3)


async def test_a_reranker_tells_topics_without_training(reranker: Client) -> None:
    texts = ["The striker scored twice in the final.", "Simmer the onions in butter for ten minutes."]
    ask = ZeroShot(Inputs(texts), ["sports", "cooking", "politics"], TERMS, template="{}")

    made = await reranker.zero_shot(ask)

    assert [int(row.argmax()) for row in made.items] == [0, 1]
    assert [row.sum() for row in made.items] == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
async def test_a_tagger_finds_the_spans_that_transformers_finds(
    pii_tagger_path: Path, tagger: Client, strategy: Aggregation
) -> None:
    reference = plain("token-classification", pii_tagger_path, aggregation_strategy=strategy)

    made = await tagger.tag(Tag(Inputs(TEXTS), TERMS, strategy))

    for text, spans in zip(TEXTS, made.items, strict=True):
        expected = reference(text)
        labels = [each["entity" if strategy == "none" else "entity_group"] for each in expected]
        assert [span.label for span in spans] == labels
        assert [(span.start, span.end, span.word) for span in spans] == [
            (each["start"], each["end"], each["word"]) for each in expected
        ]
        assert [span.score for span in spans] == pytest.approx([each["score"] for each in expected], abs=1e-4)
        assert [span.index for span in spans] == [each.get("index") for each in expected]


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")  # of the reference
@pytest.mark.parametrize("architecture", ["roberta", "bert"])
@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
async def test_tokenizers_of_other_kinds_are_joined_alike(
    tmp_path: Path, architecture: str, strategy: Aggregation
) -> None:
    path = build(architecture, "TokenClassification", tmp_path, labels=("B-A", "I-A", "B-B", "I-B", "O"))
    reference = plain("token-classification", path, aggregation_strategy=strategy)

    async with serving(path) as client:
        made = await client.tag(Tag(Inputs(TEXTS), TERMS, strategy))

    for text, spans in zip(TEXTS, made.items, strict=True):
        assert [(span.label, span.start, span.end, span.word) for span in spans] == [
            (each["entity_group"], each["start"], each["end"], each["word"]) for each in reference(text)
        ]


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (("x", "y", "z"), "single_label_classification"),
        (("x", "y", "z"), "multi_label_classification"),
        (("x", "y"), "regression"),
    ],
)
async def test_a_classifier_reads_its_logits_by_its_problem_type(
    tmp_path: Path, labels: tuple[str, ...], problem: Any
) -> None:
    path = build("roberta", "SequenceClassification", tmp_path, labels=labels, problem_type=problem)
    reference = plain("text-classification", path, top_k=None)
    pair = ("The river", "turns the wheel")

    async with serving(path) as client:
        made = await client.classify(Classify(Inputs([*TEXTS, pair]), TERMS))

    asked: list[Any] = [*TEXTS, {"text": pair[0], "text_pair": pair[1]}]
    for item, text in zip(made.items, asked, strict=True):
        answer = reference(text)
        expected = {each["label"]: each["score"] for each in (answer if isinstance(text, dict) else answer[0])}
        assert dict(zip(item.labels, item.scores.tolist(), strict=True)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
async def test_a_model_of_inference_classifies_by_the_callers_labels(tmp_path: Path, multi_label: bool) -> None:
    path = build("bert", "SequenceClassification", tmp_path, labels=NLI)
    reference = plain("zero-shot-classification", path)
    labels = ["water", "grain", "the mill"]

    async with serving(path) as client:
        made = await client.zero_shot(ZeroShot(Inputs(TEXTS), labels, TERMS, multi_label=multi_label))

    for text, row in zip(TEXTS, made.items, strict=True):
        expected = reference(text, candidate_labels=labels, multi_label=multi_label)
        assert dict(zip(labels, row.tolist(), strict=True)) == pytest.approx(
            dict(zip(expected["labels"], expected["scores"], strict=True)), abs=1e-5
        )


@pytest.mark.parametrize(("architecture", "mask"), [("bert", "[MASK]"), ("roberta", "<mask>")])
@pytest.mark.parametrize("targets", [(), ("water", "wheel", "mill")])
async def test_masks_are_filled_as_transformers_fills_them(
    tmp_path: Path, architecture: str, mask: str, targets: tuple[str, ...]
) -> None:
    path = build(architecture, "MaskedLM", tmp_path)
    reference = plain("fill-mask", path)
    texts = [f"The {mask} turns the wheel.", f"Many {mask} meet in one {mask}."]

    async with serving(path) as client:
        made = await client.fill_mask(FillMask(Inputs(texts), TERMS, top_k=3, targets=targets))

    for text, masks in zip(texts, made.items, strict=True):
        expected = reference(text, top_k=3, targets=list(targets) or None)
        for fills, others in zip(masks, expected if len(masks) > 1 else [expected], strict=True):
            assert [(fill.token, fill.text, fill.sequence) for fill in fills] == [
                (each["token"], each["token_str"], each["sequence"]) for each in others
            ]
            assert [fill.score for fill in fills] == pytest.approx([each["score"] for each in others], abs=1e-5)


async def test_term_weights_are_splade_of_the_models_own_logits(tmp_path: Path) -> None:
    path = build("distilbert", "MaskedLM", tmp_path)
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)

    async with serving(path, "sparse") as client:
        made = await client.sparse(Sparse(Inputs(TEXTS), TERMS))

    for text, vector in zip(TEXTS, made.items, strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        weights = torch.log1p(logits.relu()).amax(0).numpy()
        assert vector.indices.tolist() == np.flatnonzero(weights > 0).tolist()
        assert vector.weights == pytest.approx(weights[vector.indices], abs=1e-4)


async def test_similarity_is_the_cosine_of_the_embeddings(embedder: Client) -> None:
    source = "The cat sits outside"
    others = ["A feline rests outdoors", "The stock market fell sharply today"]

    made = await embedder.similarity(Similarity(source, Inputs(others, "sentences"), TERMS))

    assert made.items == pytest.approx([0.613, 0.176], abs=1e-3)


async def test_token_vectors_and_raw_vectors_are_the_models_own(minilm_path: Path, embedder: Client) -> None:
    model, tokenizer = AutoModel.from_pretrained(minilm_path).eval(), AutoTokenizer.from_pretrained(minilm_path)

    tokens, raw, scaled = await asyncio.gather(
        embedder.embed(Embed(Inputs(TEXTS), TERMS, output="token vectors")),
        embedder.embed(Embed(Inputs(TEXTS), TERMS, output="raw vector")),
        embedder.embed(Embed(Inputs(TEXTS), TERMS)),
    )

    for i, text in enumerate(TEXTS):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        assert tokens.items[i] == pytest.approx(hidden, abs=1e-4)
        assert raw.items[i] == pytest.approx(hidden.mean(0), abs=1e-4)
        assert scaled.items[i] == pytest.approx(hidden.mean(0) / np.linalg.norm(hidden.mean(0)), abs=1e-5)


async def test_a_causal_model_judges_by_the_last_token(tmp_path: Path) -> None:
    path = build("qwen3", "CausalLM", tmp_path)
    words = with_words(path / "tokenizer.json", "yes", "no")
    change(path / "config.json", max_position_embeddings=512)
    change(path / "tokenizer_config.json", model_max_length=512)
    pairs = [("wheel", "water"), ("mill", "grain")]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    expected = []
    for query, document in pairs:
        text = question(query, document)
        with torch.inference_mode():
            last = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1]
        expected.append(float(last[words["yes"]] - last[words["no"]]))

    async with serving(path, "rerank") as client:
        made = await client.rerank(Rerank(Inputs(pairs), TERMS))

        cut = await client.rerank(Rerank(Inputs([("mill", "grain " * 2000)]), TERMS))
        with pytest.raises(InvalidRequest, match="more than the 512 tokens"):
            await client.rerank(Rerank(Inputs([("mill", "grain " * 2000)]), Terms(60.0)))

    assert [item.logit for item in made.items] == pytest.approx(expected, abs=1e-4)
    assert 500 <= cut.tokens <= 512


async def test_a_causal_model_that_cannot_say_yes_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="no token for 'yes'"):
        async with serving(build("qwen3", "CausalLM", tmp_path), "rerank"):
            pass


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def with_words(tokenizer_json: Path, *words: str) -> dict[str, int]:
    """Give the last ids of a vocabulary to these words; returns their ids."""
    content = json.loads(tokenizer_json.read_text())
    vocabulary = content["model"]["vocab"]
    lost = sorted(vocabulary, key=vocabulary.get)[-len(words) :]
    given = {word: vocabulary.pop(token) for word, token in zip(words, lost, strict=True)}
    vocabulary.update(given)
    content["model"]["merges"] = [merge for merge in content["model"]["merges"] if "".join(merge) not in lost]
    tokenizer_json.write_text(json.dumps(content))
    return given


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (Rerank(Inputs([("q", "d")]), TERMS), "model"),
        (Classify(Inputs(["x"]), TERMS), "model"),
        (Tag(Inputs(["x"]), TERMS), "model"),
        (Embed(Inputs(["x"]), TERMS, prompt_name="query"), "prompt_name"),
    ],
)
async def test_what_an_embedder_cannot_do_is_named_and_not_queued(embedder: Client, ask: Any, field: str) -> None:
    answer = {Rerank: embedder.rerank, Classify: embedder.classify, Tag: embedder.tag, Embed: embedder.embed}[type(ask)]
    with pytest.raises(InvalidRequest) as refused:
        await answer(ask)

    assert refused.value.field == field
    assert "embed" in str(refused.value) or "prompt" in str(refused.value)


async def test_an_answer_that_would_be_too_large_is_refused_before_it_is_computed(embedder: Client) -> None:
    many = Embed(Inputs(["word " * 250] * 200), TERMS, output="token vectors")
    with pytest.raises(InvalidRequest, match="send less in one call"):
        await embedder.embed(many)


async def test_bad_questions_name_their_field(tmp_path: Path) -> None:
    path = build("bert", "MaskedLM", tmp_path)
    bad = {
        "input[1]": FillMask(Inputs(["a [MASK]", "no mask"]), TERMS),
        "input[0]": FillMask(Inputs(["[MASK] " * 17]), TERMS),
        "input": FillMask(Inputs([]), TERMS),
        "top_k": FillMask(Inputs(["a [MASK]"]), TERMS, top_k=0),
        "targets[1]": FillMask(Inputs(["a [MASK]"]), TERMS, targets=["a", "x" * 101]),
        "targets": FillMask(Inputs(["a [MASK]"]), TERMS, targets=["a"] * 1001),
    }
    async with serving(path) as client:
        for field, ask in bad.items():
            with pytest.raises(InvalidRequest) as refused:
                await client.fill_mask(ask)
            assert refused.value.field == field
        with pytest.raises(InvalidRequest, match="masks in all"):
            await client.fill_mask(FillMask(Inputs(["[MASK] " * 11]), TERMS, top_k=1000))


async def test_zero_shot_wants_labels_a_place_for_them_and_one_text(tmp_path: Path) -> None:
    path = build("bert", "SequenceClassification", tmp_path, labels=NLI)
    bad = [
        ("candidate_labels", ZeroShot(Inputs(["x"]), [], TERMS)),
        ("hypothesis_template", ZeroShot(Inputs(["x"]), ["a"], TERMS, template="nothing")),
        ("input[0]", ZeroShot(Inputs([("a", "b")]), ["a"], TERMS)),
        ("candidate_labels", ZeroShot(Inputs(["x"] * 3), ["a"] * 1000, TERMS)),
        ("input[1]", ZeroShot(Inputs(["x", "y " * 500]), ["a", "b"], Terms(60.0))),
    ]
    async with serving(path) as client:
        for field, ask in bad:
            with pytest.raises(InvalidRequest) as refused:
                await client.zero_shot(ask)
            assert refused.value.field == field
