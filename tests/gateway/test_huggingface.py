import base64

import numpy as np
import pytest

from inference.labels import sigmoid, softmax
from tests.gateway.fakes import HIDDEN, VOCABULARY, FakeEngine, numbers, ready, vector

pytestmark = pytest.mark.anyio

W0, W1 = 4, 5
TOO_LONG = "x" * 101  # for a word
LABELS = ("contradiction", "neutral", "entailment")
ALL = {"e": "embed", "r": "rerank", "c": "classify", "t": "token-classify", "m": "fill-mask", "s": "sparse"}


async def test_at_the_root_vectors_are_a_list_as_teis() -> None:
    async with ready() as subject:
        answer = await subject.post("/", inputs="w0")

    np.testing.assert_array_equal(np.float32(answer.json()), [vector([2, W0, 3])])


async def test_below_models_the_answer_is_as_deep_as_the_input() -> None:
    async with ready() as subject:
        one = await subject.post("/models/tiny", inputs="w0")
        several = await subject.post("/models/tiny", inputs=["w0"])
        named = await subject.post("/models/tiny/pipeline/feature-extraction", inputs="w0")

    np.testing.assert_array_equal(np.float32(one.json()), vector([2, W0, 3]))
    assert several.json() == [one.json()]
    assert named.json() == one.json()


@pytest.mark.parametrize(("normalize", "length"), [(None, 1), (True, 1), (False, 3)])
async def test_vectors_are_scaled_as_the_body_says(normalize: bool | None, length: float) -> None:
    async with ready() as subject:
        answer = await subject.post("/", inputs="w0", normalize=normalize)

    np.testing.assert_allclose(np.linalg.norm(answer.json()), length, rtol=1e-5)


@pytest.mark.parametrize(("normalize", "length"), [(None, 3), (True, 1), (False, 3)])
async def test_a_model_that_does_not_scale_is_left_so_unless_told(normalize: bool | None, length: float) -> None:
    async with ready(FakeEngine(normalised=False)) as subject:
        answer = await subject.post("/", inputs="w0", normalize=normalize)

    np.testing.assert_allclose(np.linalg.norm(answer.json()), length, rtol=1e-5)


async def test_features_take_what_the_client_can_send() -> None:
    fields = {"prompt_name": "query", "dimensions": 8, "truncation_direction": "left", "encoding_format": "base64"}

    async with ready() as subject:
        answer = await subject.post("/", inputs=["w0 " * 30 + "w1"], options={"wait_for_model": True}, **fields)

    read = np.frombuffer(base64.b64decode(answer.json()[0]), "<f4")
    kept = vector([2, *[W0] * 13, W1, 3])[:8]
    np.testing.assert_allclose(read, kept / np.linalg.norm(kept), rtol=1e-5)


async def test_an_embedder_compares_where_the_inputs_are_an_object() -> None:
    body = {"inputs": {"source_sentence": "w0", "sentences": ["w1", "w0"]}, "parameters": {}}

    async with ready() as subject:
        answers = [await subject.post(path, **body) for path in ("/", "/models/tiny/pipeline/sentence-similarity")]

    for answer in answers:
        np.testing.assert_allclose(answer.json(), [vector([2, W0, 3]) @ vector([2, W1, 3]), 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "scores"),
    [
        ({}, softmax),
        ({"function_to_apply": "sigmoid"}, sigmoid),
        ({"function_to_apply": "softmax"}, softmax),
        ({"function_to_apply": "none"}, lambda logits: logits),
        ({"top_k": 2}, softmax),
    ],
    ids=str,
)
async def test_a_classified_text_has_its_labels_in_a_list_of_lists(parameters: dict, scores) -> None:
    async with ready(FakeEngine(ALL)) as subject:
        answer = await subject.post("/models/c", inputs="w0", parameters=parameters)

    expected = scores(numbers([2, W0, 3], 3))
    order = np.argsort(-expected)[: parameters.get("top_k")]
    assert [[(item["label"], np.float32(item["score"])) for item in row] for row in answer.json()] == [
        [(LABELS[index], expected[index]) for index in order]
    ]


async def test_a_pair_is_an_object_of_two_texts() -> None:
    async with ready(FakeEngine({"r": "rerank"})) as subject:
        pair = {"text": "w0", "text_pair": "w1"}
        answers = [await subject.post("/", inputs=inputs) for inputs in (pair, [pair, "w0"])]

    expected = sigmoid(numbers([2, W0, 3, W1, 3], 1))[0]
    assert [np.float32(answer.json()[0][0]["score"]) for answer in answers] == [expected, expected]
    assert len(answers[1].json()) == 2


async def test_own_labels_make_it_zero_shot() -> None:
    async with ready(FakeEngine(ALL)) as subject:
        fields = {"candidate_labels": ["w1", "w2"], "hypothesis_template": "w9 {}", "multi_label": False}
        answer = await subject.post("/models/c", inputs="w0", parameters=fields)
        commas = await subject.post("/models/c", inputs=["w0"], parameters={**fields, "candidate_labels": "w1, w2"})

    logits = np.array([numbers([2, W0, 3, 13, 5 + i, 3], 3)[2] for i in range(2)])
    expected = dict(zip(["w1", "w2"], softmax(logits), strict=True))
    assert {item["label"]: np.float32(item["score"]) for item in answer.json()} == expected
    assert answer.json() == sorted(answer.json(), key=lambda item: -item["score"])
    assert commas.json() == [answer.json()]


def tagged(ids: list[int]) -> list[int]:
    return [int(numbers([id_], 3).argmax()) for id_ in ids]


async def test_entities_are_groups_unless_nothing_is_aggregated() -> None:
    word = next(i for i in range(60) if tagged([i + 4]) == [1])

    async with ready(FakeEngine(ALL)) as subject:
        simple = await subject.post("/models/t", inputs=f"w{word}")
        none = await subject.post("/models/t", inputs=[f"w{word}"], parameters={"aggregation_strategy": "none"})

    text = f"w{word}"
    score = softmax(numbers([word + 4], 3)).max()
    (group,) = simple.json()
    assert (group["entity_group"], group["word"], group["start"], group["end"]) == ("PER", text, 0, len(text))
    np.testing.assert_allclose(group["score"], score, rtol=1e-6)
    ((token,),) = none.json()
    assert (token["entity"], token["index"], token["word"]) == ("B-PER", 1, text)
    assert "entity_group" not in token


async def test_which_labels_are_ignored_is_the_callers_choice() -> None:
    outside = next(i for i in range(60) if tagged([i + 4]) == [0])

    async with ready(FakeEngine(ALL)) as subject:
        told = await subject.post("/models/t", inputs=f"w{outside}", parameters={"ignore_labels": []})
        usual = await subject.post("/models/t", inputs=f"w{outside}")

    assert [item["entity_group"] for item in told.json()] == ["O"]
    assert usual.json() == []


async def test_masks_are_filled_and_more_than_one_has_a_list_each() -> None:
    async with ready(FakeEngine(ALL)) as subject:
        one = await subject.post("/models/m", inputs="w0 [MASK]", parameters={"top_k": 2})
        two = await subject.post("/models/m", inputs=["[MASK] [MASK]"], parameters={"targets": ["w1"]})

    shares = softmax(numbers([2, 2, W0, VOCABULARY - 1, 3], VOCABULARY))
    best = np.argsort(-shares)[:2].tolist()
    assert [item["token"] for item in one.json()] == best
    assert one.json()[0].keys() == {"score", "token", "token_str", "sequence"}
    assert [[item["token_str"] for item in mask] for mask in two.json()[0]] == [["w1"], ["w1"]]


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/", {"inputs": "w0"}, 400, "say which model is meant"),
        ("/models/nobody", {"inputs": "w0"}, 404, "not served"),
        ("/models/e/pipeline/summarization", {"inputs": "w0"}, 404, "feature-extraction"),
        ("/models/e/pipeline/fill-mask", {"inputs": "w0"}, 400, "e can embed, similarity"),
        ("/models/e", {"inputs": "w0", "parameters": {"top_k": 1}}, 400, "top_k"),
        ("/models/e", {"inputs": "w0 " * 30, "truncate": False}, 400, "inputs"),
        ("/models/e", {"inputs": ["w0", 5]}, 400, "inputs[1]"),
        ("/models/e", {}, 400, "inputs"),
        ("/models/e", {"inputs": "w0", "dimensions": HIDDEN + 1}, 400, "dimensions"),
        ("/models/s", {"inputs": "w0"}, 400, "s can sparse"),
        ("/models/t", {"inputs": "w0", "parameters": {"stride": 4}}, 400, "parameters.stride"),
        ("/models/t", {"inputs": "w0", "parameters": {"aggregation_strategy": "all"}}, 400, "aggregation_strategy"),
        ("/models/c", {"inputs": "w0", "parameters": {"candidate_labels": []}}, 400, "parameters.candidate_labels"),
        ("/models/r/pipeline/zero-shot-classification", {"inputs": "w0"}, 400, "parameters"),
        ("/models/m", {"inputs": "w0"}, 400, "[MASK]"),
        ("/models/m", {"inputs": "[MASK]", "parameters": {"top_k": 0}}, 400, "parameters.top_k: "),
        (
            "/models/m",
            {"inputs": "[MASK]", "parameters": {"targets": ["w0", TOO_LONG]}},
            400,
            "parameters.targets[1]: ",
        ),
        (
            "/models/c",
            {"inputs": "w0", "parameters": {"candidate_labels": ["a"], "hypothesis_template": "x"}},
            400,
            "parameters.hypothesis_template: ",
        ),
        (
            "/models/e",
            {"inputs": {"source_sentence": "", "sentences": ["w0"]}},
            400,
            "inputs.source_sentence: ",
        ),
        ("/models/c", {"inputs": []}, 400, "inputs"),
        ("/models/c", {"inputs": "w0", "parameters": {"top_k": 0}}, 400, "parameters.top_k"),
    ],
    ids=str,
)
async def test_a_mistake_is_one_sentence(path: str, body: dict, status: int, told: str) -> None:
    async with ready(FakeEngine(ALL)) as subject:
        answer = await subject.post(path, **body)

    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert told in answer.json()["error"]
    assert subject.engine.submitted == []


@pytest.mark.parametrize("name", ["r", "c", "t", "m"])
async def test_other_tasks_cut_long_texts(name: str) -> None:
    async with ready(FakeEngine({name: ALL[name]})) as subject:
        answer = await subject.post("/", inputs="[MASK] " + "w0 " * 30)

    assert answer.status_code == 200
    assert len(subject.engine.submitted[0].requests[0].tokens) == 16
