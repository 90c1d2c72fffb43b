import base64

import numpy as np
import pytest

from inference import DeadlineExceeded, Overloaded, RuntimeFailed, Unavailable
from inference.labels import sigmoid, softmax
from tests.gateway.fakes import HIDDEN, MAX_LENGTH, VOCABULARY, FakeEngine, numbers, ready, vector

pytestmark = pytest.mark.anyio

W0, W1 = 4, 5
ALL = {"e": "embed", "r": "rerank", "c": "classify", "s": "sparse"}
LABELS = ("contradiction", "neutral", "entailment")


def everything() -> FakeEngine:
    return FakeEngine(ALL)


async def test_a_text_is_answered_with_a_list_of_one_vector() -> None:
    async with ready() as subject:
        answer = await subject.post("/embed", inputs="w0")

    np.testing.assert_array_equal(np.float32(answer.json()), [vector([2, W0, 3])])


@pytest.mark.parametrize(
    ("inputs", "ids"),
    [
        (["w0", "w1"], [[2, W0, 3], [2, W1, 3]]),
        ([W0, W1], [[W0, W1]]),
        ([[W0], [W1, W1]], [[W0], [W1, W1]]),
    ],
)
async def test_inputs_are_texts_or_token_ids_which_are_never_decoded(inputs: list, ids: list[list[int]]) -> None:
    async with ready() as subject:
        answer = await subject.post("/embed", inputs=inputs)

    np.testing.assert_array_equal(np.float32(answer.json()), [vector(each) for each in ids])


async def test_vectors_are_scaled_to_length_one_unless_the_body_says_no() -> None:
    async with ready() as subject:
        raw = await subject.post("/embed", inputs="w0", normalize=False)
        short = await subject.post("/embed", inputs="w0", dimensions=7)

    np.testing.assert_allclose(np.linalg.norm(raw.json()), 3, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(short.json()), 1, rtol=1e-5)
    assert len(short.json()[0]) == 7


@pytest.mark.parametrize(
    ("path", "body", "length"),
    [
        ("/embed", {"inputs": "w0"}, 1),
        ("/embed", {"inputs": "w0", "normalize": False}, 3),
        ("/embed", {"inputs": "w0", "dimensions": 8}, 1),
    ],
    ids=str,
)
async def test_a_model_that_does_not_scale_is_scaled_here(path: str, body: dict, length: float) -> None:
    async with ready(FakeEngine(normalised=False)) as subject:
        answer = await subject.post(path, **body)

    np.testing.assert_allclose(np.linalg.norm(answer.json()[0]), length, rtol=1e-5)


async def test_openais_form_is_always_scaled() -> None:
    async with ready(FakeEngine(normalised=False)) as subject:
        answers = [await subject.post(path, input="w0") for path in ("/embeddings", "/infinity/embeddings")]

    for answer in answers:
        np.testing.assert_allclose(np.linalg.norm(answer.json()["data"][0]["embedding"]), 1, rtol=1e-5)


async def test_a_named_prompt_stands_before_the_text() -> None:
    async with ready() as subject:
        answer = await subject.post("/embed", inputs="w0", prompt_name="query")
        tokens = await subject.post("/tokenize", inputs="w0", prompt_name="query")
        unknown = [await subject.post(path, inputs="w0", prompt_name="x") for path in ("/embed", "/tokenize")]

    np.testing.assert_array_equal(np.float32(answer.json()), [vector([2, 11, W0, 3])])
    assert [token["text"] for token in tokens.json()[0]] == ["[CLS]", "w7", "w0", "[SEP]"]
    assert [each.status_code for each in unknown] == [422, 422]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, [2, *[W0] * 14, 3]),
        ({"truncate": True}, [2, *[W0] * 14, 3]),
        ({"truncate": None}, [2, *[W0] * 14, 3]),
        ({"truncation_direction": "left"}, [2, *[W0] * 13, W1, 3]),
        ({"truncation_direction": "Left", "truncate": True}, [2, *[W0] * 13, W1, 3]),
    ],
    ids=str,
)
async def test_a_long_text_is_cut_by_default_as_the_peer_does(fields: dict, kept: list[int]) -> None:
    async with ready() as subject:
        answer = await subject.post("/embed", inputs="w0 " * 30 + "w1", **fields)

    np.testing.assert_array_equal(np.float32(answer.json()), [vector(kept)])


async def test_a_long_text_is_refused_if_the_body_says_so() -> None:
    async with ready() as subject:
        answer = await subject.post("/embed", inputs="w0 " * 30, truncate=False)

    assert answer.status_code == 422
    assert answer.json()["error_type"] == "Validation"
    assert subject.engine.submitted == []


async def test_every_token_has_a_vector() -> None:
    async with ready() as subject:
        answer = await subject.post("/embed_all", inputs=["w0", "w0 w1"])

    assert [np.shape(rows) for rows in answer.json()] == [(3, HIDDEN), (4, HIDDEN)]
    np.testing.assert_array_equal(np.float32(answer.json()[0][1]), numbers([W0], HIDDEN))


async def test_terms_have_weights() -> None:
    async with ready(everything()) as subject:
        answer = await subject.post("/embed_sparse", inputs="w0")

    row = np.maximum(numbers([2, W0, 3], 120) - 1, 0)
    assert [term["index"] for term in answer.json()[0]] == np.flatnonzero(row).tolist()
    np.testing.assert_array_equal(np.float32([term["value"] for term in answer.json()[0]]), row[row > 0])


@pytest.mark.parametrize(
    ("inputs", "ids", "single"),
    [
        ("w0", [[2, W0, 3]], True),
        (["w0"], [[2, W0, 3]], True),
        (["w0", "w1"], [[2, W0, 3, W1, 3]], True),  # the trap: one pair, not two texts
        ([["w0"], ["w0", "w1"]], [[2, W0, 3], [2, W0, 3, W1, 3]], False),
        ([["w0"]], [[2, W0, 3]], False),
    ],
    ids=str,
)
async def test_two_texts_in_a_list_are_a_pair(inputs: object, ids: list[list[int]], single: bool) -> None:
    async with ready(FakeEngine({"c": "classify"})) as subject:
        answer = await subject.post("/predict", inputs=inputs)

    body = [answer.json()] if single else answer.json()
    expected = [dict(zip(LABELS, softmax(numbers(each, 3)), strict=True)) for each in ids]
    assert [{item["label"]: np.float32(item["score"]) for item in row} for row in body] == expected
    assert all(row == sorted(row, key=lambda item: -item["score"]) for row in body)


@pytest.mark.parametrize("inputs", [["w0", "w1", "w2"], [["w0"], "w1"], ["w0", ["w1"]], [["a", "b", "c"]], [[]], 5])
async def test_what_is_neither_text_nor_pair_is_refused(inputs: object) -> None:
    async with ready(FakeEngine({"c": "classify"})) as subject:
        answer = await subject.post("/predict", inputs=inputs)

    assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")
    assert subject.engine.submitted == []


async def test_raw_scores_are_logits() -> None:
    async with ready(FakeEngine({"c": "classify", "r": "rerank"})) as subject:
        labels = await subject.post("/predict", inputs="w0", raw_scores=True, model="c")
        ranks = await subject.post("/rerank", query="w0", texts=["w1"], raw_scores=True)

    assert {item["label"]: np.float32(item["score"]) for item in labels.json()} == dict(
        zip(LABELS, numbers([2, W0, 3], 3), strict=True)
    )
    assert np.float32(ranks.json()[0]["score"]) == numbers([2, W0, 3, W1, 3], 1)[0]


async def test_texts_are_ranked_best_first() -> None:
    async with ready(everything()) as subject:
        answer = await subject.post("/rerank", query="w0", texts=["w1", "w2", "w3"], return_text=True)
        bare = await subject.post("/rerank", query="w0", texts=["w1"])

    scores = sigmoid(np.concatenate([numbers([2, W0, 3, W1 + i, 3], 1) for i in range(3)]))
    order = np.argsort(-scores).tolist()
    assert [item["index"] for item in answer.json()] == order
    assert [item["text"] for item in answer.json()] == [f"w{i + 1}" for i in order]
    np.testing.assert_array_equal(np.float32([item["score"] for item in answer.json()]), scores[order])
    assert bare.json()[0].keys() == {"index", "score"}


async def test_a_similarity_is_a_cosine() -> None:
    async with ready(everything()) as subject:
        inputs = {"source_sentence": "w0", "sentences": ["w1", "w0"]}
        answer = await subject.post("/similarity", inputs=inputs, parameters={"truncate": True})

    np.testing.assert_allclose(answer.json(), [vector([2, W0, 3]) @ vector([2, W1, 3]), 1], rtol=1e-5)


async def test_tokens_are_shown_with_their_places() -> None:
    async with ready() as subject:
        answer = await subject.post("/tokenize", inputs=["w0  W1"])
        bare = await subject.post("/tokenize", inputs="w0", add_special_tokens=False)

    assert answer.json() == [
        [
            {"id": 2, "text": "[CLS]", "special": True, "start": None, "stop": None},
            {"id": W0, "text": "w0", "special": False, "start": 0, "stop": 2},
            {"id": W1, "text": "W1", "special": False, "start": 4, "stop": 6},
            {"id": 3, "text": "[SEP]", "special": True, "start": None, "stop": None},
        ]
    ]
    assert [token["id"] for token in bare.json()[0]] == [W0]


async def test_token_ids_are_written_as_text() -> None:
    async with ready() as subject:
        one = await subject.post("/decode", ids=[2, W0, W1])
        several = await subject.post("/decode", ids=[[2, W0], [W1]], skip_special_tokens=False)

    assert (one.json(), several.json()) == (["w0 w1"], ["[CLS] w0", "w1"])


async def test_token_ids_that_the_model_does_not_have_are_not_written() -> None:
    async with ready() as subject:
        answers = [
            await subject.post("/decode", ids=[W0, VOCABULARY]),
            await subject.post("/decode", ids=[[W0], [VOCABULARY]]),
        ]
        last = await subject.post("/decode", ids=[VOCABULARY - 1], skip_special_tokens=False)

    wrong = f"token ids must be between 0 and {VOCABULARY - 1} for tiny"
    assert [answer.status_code for answer in answers] == [422, 422]
    assert [answer.json()["error"] for answer in answers] == [f"`ids` {wrong}", f"`ids[1]` {wrong}"]
    assert last.json() == ["[MASK]"]


@pytest.mark.parametrize("path", ["/tokenize", "/decode"])
async def test_the_tokenizer_has_as_long_as_the_caller_waits(path: str) -> None:
    """Such work is far longer than a millisecond."""
    body = {"inputs": "w0 " * 20_000} if path == "/tokenize" else {"ids": [W0] * 20_000}
    async with ready() as subject:
        answer = await subject.http.post(path, json=body, headers={"x-request-timeout-ms": "1"})

    assert (answer.status_code, answer.json()["error_type"]) == (504, "Overloaded")


async def test_a_query_that_is_too_long_is_named() -> None:
    long = "w0 " * 30
    async with ready(FakeEngine({"r": "rerank"})) as subject:
        query = await subject.post("/rerank", query=long, texts=["w0"], truncate=False)
        text = await subject.post("/rerank", query="w0", texts=["w0", long], truncate=False)

    assert [answer.json()["error"].split(" ")[0] for answer in (query, text)] == ["`query`", "`texts[1]`"]


async def test_fields_inside_others_are_named_by_their_path() -> None:
    source, prompt = {"source_sentence": "", "sentences": ["w0"]}, {"source_sentence": "w0", "sentences": ["w0"]}
    async with ready() as subject:
        answers = [
            await subject.post("/similarity", inputs=source),
            await subject.post("/similarity", inputs=prompt, parameters={"prompt_name": "no"}),
            await subject.post(
                "/similarity",
                inputs={"source_sentence": "w0 " * 30, "sentences": ["w0"]},
                parameters={"prompt_name": "query", "truncate": False},
            ),
        ]

    names = [answer.json()["error"].split(" ")[0] for answer in answers]
    assert names == ["`inputs.source_sentence`", "`parameters.prompt_name`", "`inputs.source_sentence`"]


async def test_more_than_a_call_may_hold_is_neither_tokenised_nor_decoded() -> None:
    async with ready() as subject:
        answers = [
            await subject.post("/tokenize", inputs=["w0"] * 2049),
            await subject.post("/decode", ids=[[W0]] * 2049),
        ]

    assert [answer.status_code for answer in answers] == [422, 422]


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_openais_form_has_a_path_without_a_version(encoding: str) -> None:
    async with ready() as subject:
        answer = await subject.post("/embeddings", input="w0 " * 30, encoding_format=encoding, user="x")

    told = answer.json()["data"][0]["embedding"]
    read = np.float32(told) if encoding == "float" else np.frombuffer(base64.b64decode(told), "<f4")
    np.testing.assert_allclose(read, vector([2, *[W0] * 14, 3]), rtol=1e-6)
    assert answer.json()["usage"] == {"prompt_tokens": MAX_LENGTH, "total_tokens": MAX_LENGTH}


async def test_its_errors_are_flat() -> None:
    async with ready() as subject:
        answer = await subject.post("/embeddings", input="")

    assert answer.status_code == 422
    assert answer.json() == {"message": "`input` must not be empty", "code": 422, "type": "Validation"}


async def test_headers_say_what_an_answer_cost_and_add_up() -> None:
    async with ready() as subject:
        answer = await subject.post("/embed", inputs=["w0 w1", "w0"])

    told = answer.headers
    assert (told["x-compute-type"], told["x-compute-characters"], told["x-compute-tokens"]) == (
        "cpu+optimized",
        "7",
        "7",
    )
    parts = [int(told[f"x-{part}-time"]) for part in ("tokenization", "queue", "inference")]
    assert int(told["x-total-time"]) == int(told["x-compute-time"]) == sum(parts)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("e", {"embedding": {"pooling": "mean"}}),
        ("s", {"embedding": {"pooling": "splade"}}),
        ("r", {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}),
    ],
)
async def test_the_model_is_described(name: str, kind: dict) -> None:
    async with ready(FakeEngine({name: ALL[name]})) as subject:
        answer = await subject.http.get("/info")

    body = answer.json()
    assert (body["model_id"], body["model_type"], body["max_input_length"]) == (name, kind, MAX_LENGTH)
    assert (body["auto_truncate"], body["max_client_batch_size"]) == (True, 2048)


async def test_health_is_readiness() -> None:
    async with ready() as subject:
        well = await subject.http.get("/health")
        subject.lifecycle.drain()
        leaving = await subject.http.get("/health")

    assert (well.status_code, well.content) == (200, b"")
    assert (leaving.status_code, leaving.json()["error_type"]) == (503, "Unhealthy")


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/embed", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": ""}, 422, "Validation"),
        ("/embed", {"inputs": "w0", "dimensions": HIDDEN + 1}, 422, "Validation"),
        ("/embed", {"inputs": "w0", "trunctate": True}, 422, "Validation"),
        ("/embed", {"inputs": ["w0", 1]}, 422, "Validation"),
        ("/embed", {}, 422, "Validation"),
        ("/embed", {"inputs": "w0", "model": "nobody"}, 404, "Validation"),
        ("/embed_sparse", {"inputs": "w0"}, 424, "Backend"),
        ("/predict", {"inputs": "w0"}, 424, "Backend"),
        ("/predict", {"inputs": "w0", "model": "tiny"}, 424, "Backend"),
        ("/predict", {"inputs": []}, 400, "Empty"),
        ("/rerank", {"query": "w0", "texts": []}, 400, "Empty"),
        ("/rerank", {"query": "", "texts": ["w0"]}, 422, "Validation"),
        ("/similarity", {"inputs": {"source_sentence": "w0", "sentences": []}}, 400, "Empty"),
        ("/similarity", {"inputs": {"source_sentence": "", "sentences": ["w0"]}}, 422, "Validation"),
        ("/decode", {"ids": [-1]}, 422, "Validation"),
        ("/decode", {"ids": []}, 400, "Empty"),
        ("/tokenize", {"inputs": []}, 400, "Empty"),
    ],
    ids=str,
)
async def test_mistakes_have_the_statuses_of_the_peer(path: str, body: dict, status: int, kind: str) -> None:
    async with ready() as subject:
        answer = await subject.post(path, **body)

    assert answer.status_code == status
    assert answer.json().keys() == {"error", "error_type"}
    assert answer.json()["error_type"] == kind
    assert subject.engine.submitted == []


async def test_a_wrong_task_names_what_the_model_can_do() -> None:
    async with ready() as subject:
        answer = await subject.post("/predict", inputs="w0")

    assert "tiny can embed, similarity" in answer.json()["error"]


async def test_one_of_several_models_has_to_be_named() -> None:
    async with ready(FakeEngine(("one", "two"))) as subject:
        unnamed = await subject.post("/embed", inputs="w0")
        named = await subject.post("/embed", inputs="w0", model="two")

    assert unnamed.status_code == 422
    assert "one, two" in unnamed.json()["error"]
    assert named.status_code == 200


@pytest.mark.parametrize(
    ("raised", "status", "kind"),
    [
        (Overloaded("queue full", 0.5), 429, "Overloaded"),
        (Unavailable("draining"), 503, "Unhealthy"),
        (DeadlineExceeded("late"), 504, "Overloaded"),
        (RuntimeFailed("secret"), 424, "Backend"),
        (ValueError("secret"), 500, "Backend"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_trouble_has_the_statuses_of_the_peer(raised: Exception, status: int, kind: str) -> None:
    async with ready() as subject:
        subject.engine.error = raised
        answer = await subject.post("/embed", inputs="w0")

    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) == (status in {429, 503})


async def test_what_is_not_json_is_400_and_too_much_is_413() -> None:
    async with ready() as subject:
        broken = await subject.http.post("/embed", content=b"{", headers={"content-type": "application/json"})
        large = await subject.http.post("/embed", content=b" " * (8 << 20) + b"{}")
        other = await subject.http.post("/embed", content=b"{}", headers={"content-type": "text/plain"})

    assert [answer.status_code for answer in (broken, large, other)] == [400, 413, 415]
    assert {answer.json()["error_type"] for answer in (broken, large, other)} == {"Validation"}


async def test_what_is_shown_has_a_limit_for_each_token_becomes_an_object() -> None:
    async with ready() as subject:
        answers = [
            await subject.post("/tokenize", inputs=["x" * 60_000, "x" * 6_000]),
            await subject.post("/decode", ids=[[W0] * 60_000, [W0] * 6_000]),
        ]

    assert [answer.status_code for answer in answers] == [422, 422]
    assert ["65536" in answer.json()["error"] for answer in answers] == [True, True]
