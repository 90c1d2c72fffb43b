"""What Hugging Face's own client makes of our answers, over a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from inference.labels import softmax
from tests.gateway.fakes import HIDDEN, VOCABULARY, FakeEngine, listening, numbers, vector

pytestmark = pytest.mark.anyio

W0, W1 = 4, 5
ALL = {"e": "embed", "c": "classify", "t": "token-classify", "m": "fill-mask"}


@asynccontextmanager
async def caller(name: str) -> AsyncIterator[AsyncInferenceClient]:
    """A client whose model is the address: of the server where one model is served, else of the model."""
    async with (
        listening(FakeEngine(ALL)) as address,
        AsyncInferenceClient(model=f"http://127.0.0.1:{address.port}/models/{name}") as client,
    ):
        yield client


async def test_it_embeds_one_text_and_several() -> None:
    async with caller("e") as client:
        one = await client.feature_extraction("w0")
        several = await client.feature_extraction(["w0", "w1"], normalize=True, truncate=True)
        short = await client.feature_extraction("w0", dimensions=8, prompt_name="query", encoding_format="float")

    np.testing.assert_array_equal(one, vector([2, W0, 3]))
    assert (one.shape, several.shape, short.shape) == ((HIDDEN,), (2, HIDDEN), (8,))


async def test_it_finds_the_only_model_at_the_root() -> None:
    async with listening() as address, AsyncInferenceClient(model=f"http://127.0.0.1:{address.port}/") as client:
        rows = await client.feature_extraction("w0")

    np.testing.assert_array_equal(rows, [vector([2, W0, 3])])


async def test_it_compares_sentences() -> None:
    async with caller("e") as client:
        scores = await client.sentence_similarity("w0", other_sentences=["w1", "w0"])

    np.testing.assert_allclose(scores, [vector([2, W0, 3]) @ vector([2, W1, 3]), 1], rtol=1e-5)


async def test_it_classifies_texts() -> None:
    async with caller("c") as client:
        every = await client.text_classification("w0")
        best = await client.text_classification("w0", top_k=1, function_to_apply="softmax")

    scores = softmax(numbers([2, W0, 3], 3))
    np.testing.assert_array_equal(np.float32([item.score for item in every]), np.sort(scores)[::-1])
    assert [(item.label, item.score) for item in best] == [(every[0].label, every[0].score)]


async def test_it_tries_labels_of_its_own() -> None:
    async with caller("c") as client:
        found = await client.zero_shot_classification("w0", ["w1", "w2"], hypothesis_template="w9 {}", multi_label=True)

    assert {item.label for item in found} == {"w1", "w2"}
    assert found[0].score >= found[1].score


async def test_it_tags_tokens() -> None:
    word = next(i for i in range(60) if numbers([i + 4], 3).argmax() == 1)

    async with caller("t") as client:
        (group,) = await client.token_classification(f"w{word}", aggregation_strategy="max", ignore_labels=["O"])
        (token,) = await client.token_classification(f"w{word}", aggregation_strategy="none")

    assert (group.entity_group, group.word, group.start) == ("PER", f"w{word}", 0)
    assert (token.entity, token.word) == ("B-PER", f"w{word}")


async def test_it_fills_masks() -> None:
    async with caller("m") as client:
        found = await client.fill_mask("w0 [MASK]", top_k=3)
        only = await client.fill_mask("w0 [MASK]", targets=["w1"])

    shares = softmax(numbers([2, 2, W0, VOCABULARY - 1, 3], VOCABULARY))
    assert [item.token for item in found] == np.argsort(-shares)[:3].tolist()
    assert (only[0].token_str, only[0].sequence) == ("w1", "w0 w1")


async def test_it_raises_its_own_error_with_our_sentence() -> None:
    async with caller("e") as client:
        with pytest.raises(HfHubHTTPError) as caught:
            await client.text_classification("w0", top_k=2)

    assert caught.value.response.status_code == 400
    assert "top_k" in caught.value.response.json()["error"]


async def test_it_reads_health_and_info() -> None:
    async with listening() as address:
        client = InferenceClient(model=f"http://127.0.0.1:{address.port}", provider="hf-inference")
        healthy = await asyncio.to_thread(client.health_check)
        info = await asyncio.to_thread(client.get_endpoint_info)

    assert healthy is True
    assert info["model_id"] == "tiny"
