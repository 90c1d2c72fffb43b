"""What Cohere's own client makes of our answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import cohere
import httpx
import numpy as np
import pytest
from cohere.errors import BadRequestError, NotFoundError, ServiceUnavailableError, TooManyRequestsError

from gateway.vectors import encoded
from inference import Overloaded, Unavailable
from inference.labels import sigmoid
from tests.gateway.fakes import FakeEngine, Gateway, numbers, ready, vector

pytestmark = pytest.mark.anyio

W0, W1 = 4, 5


@asynccontextmanager
async def caller() -> AsyncIterator[tuple[cohere.AsyncClientV2, Gateway]]:
    async with (
        ready(FakeEngine({"e": "embed", "r": "rerank"})) as subject,
        httpx.AsyncClient(transport=httpx.ASGITransport(subject.app)) as http,
    ):
        yield cohere.AsyncClientV2("unused", base_url="http://gateway", httpx_client=http, max_retries=0), subject


async def test_it_embeds() -> None:
    async with caller() as (client, _):
        answer = await client.embed(model="e", input_type="search_document", texts=["w0", "w1"], truncate="START")

    np.testing.assert_array_equal(np.float32(answer.embeddings.float_), [vector([2, W0, 3]), vector([2, W1, 3])])
    assert answer.texts == ["w0", "w1"]
    assert answer.meta.billed_units.input_tokens == 6


async def test_it_reads_every_type() -> None:
    async with caller() as (client, _):
        kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
        answer = await client.embed(model="e", input_type="classification", texts=["w0"], embedding_types=kinds)

    for kind in kinds[1:]:
        (told,) = getattr(answer.embeddings, kind)
        expected = encoded(vector([2, W0, 3]), kind)
        np.testing.assert_array_equal(told, expected)


async def test_it_ranks() -> None:
    async with caller() as (client, _):
        answer = await client.rerank(
            model="r", query="w0", documents=["w1", "w2", "w3"], top_n=2, max_tokens_per_doc=4096
        )

    scores = sigmoid(np.concatenate([numbers([2, W0, 3, W1 + i, 3], 1) for i in range(3)]))
    assert [item.index for item in answer.results] == np.argsort(-scores)[:2].tolist()
    assert np.float32(answer.results[0].relevance_score) == scores.max()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"model": "r", "texts": ["w0"]}, BadRequestError),
        ({"model": "e", "texts": ["w0", ""]}, BadRequestError),
        ({"model": "nobody", "texts": ["w0"]}, NotFoundError),
    ],
    ids=["task", "empty", "model"],
)
async def test_it_raises_its_own_error_for_a_mistake(body: dict, error: type[Exception]) -> None:
    async with caller() as (client, _):
        with pytest.raises(error) as caught:
            await client.embed(input_type="search_query", **body)

    assert caught.value.body["message"]


@pytest.mark.parametrize(
    ("raised", "error"),
    [(Overloaded("queue full", 0.01), TooManyRequestsError), (Unavailable("starting"), ServiceUnavailableError)],
    ids=["overloaded", "unavailable"],
)
async def test_it_raises_its_own_error_for_trouble_here(raised: Exception, error: type[Exception]) -> None:
    async with caller() as (client, subject):
        subject.engine.error = raised

        with pytest.raises(error):
            await client.rerank(model="r", query="w0", documents=["w1"])
