"""What the official client makes of our answers."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI

from inference import DeadlineExceeded, Overloaded, RuntimeFailed, Unavailable
from tests.gateway.fakes import MODEL, Gateway, ready, vector

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def caller(**options: object) -> AsyncIterator[tuple[AsyncOpenAI, Gateway]]:
    async with ready() as subject:
        yield AsyncOpenAI(base_url="http://gateway/v1", api_key="x", http_client=subject.http, **options), subject


async def test_it_reads_the_vectors_of_its_default_encoding() -> None:
    async with caller() as (client, _):
        answer = await client.embeddings.create(model=MODEL, input=["w0", "w1 w1"])

    np.testing.assert_array_equal([item.embedding for item in answer.data], [vector([2, 4, 3]), vector([2, 5, 5, 3])])
    assert [item.index for item in answer.data] == [0, 1]
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == (MODEL, 7, 7)


async def test_it_reads_numbers_and_base64() -> None:
    async with caller() as (client, _):
        numbers = await client.embeddings.create(model=MODEL, input="w0", encoding_format="float")
        encoded = await client.embeddings.create(model=MODEL, input="w0", encoding_format="base64")

    told = encoded.data[0].embedding
    assert isinstance(told, str)
    np.testing.assert_array_equal(np.float32(numbers.data[0].embedding), np.frombuffer(base64.b64decode(told), "<f4"))


async def test_it_sends_token_ids_dimensions_and_our_own_field() -> None:
    async with caller() as (client, _):
        answer = await client.embeddings.create(
            model=MODEL, input=[[4] * 40], dimensions=8, user="somebody", extra_body={"truncate": True}
        )

    assert len(answer.data[0].embedding) == 8
    assert answer.usage.total_tokens == 16


async def test_it_lists_the_models() -> None:
    async with caller() as (client, _):
        models = [model.id async for model in client.models.list()]

    assert models == [MODEL]


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({"model": MODEL, "input": ""}, openai.BadRequestError, "input"),
        ({"model": MODEL, "input": ["w0", "w0 " * 20]}, openai.BadRequestError, "input[1]"),
        ({"model": "nobody", "input": "w0"}, openai.NotFoundError, "model"),
    ],
    ids=["empty", "too long", "unknown model"],
)
async def test_it_raises_its_own_error_for_a_mistake(body: dict, error: type[openai.APIError], param: str) -> None:
    async with caller() as (client, _):
        with pytest.raises(error) as caught:
            await client.embeddings.create(**body)

    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (Overloaded("queue full", 0.01), openai.RateLimitError),
        (Unavailable("starting"), openai.InternalServerError),
        (DeadlineExceeded("too late"), openai.InternalServerError),
        (RuntimeFailed("broken"), openai.InternalServerError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
async def test_it_raises_its_own_error_for_trouble_here(raised: Exception, error: type[openai.APIError]) -> None:
    async with caller(max_retries=0) as (client, subject):
        subject.engine.error = raised

        with pytest.raises(error):
            await client.embeddings.create(model=MODEL, input="w0")

    assert len(subject.engine.submitted) == 1


async def test_it_comes_back_after_a_refusal() -> None:
    async with caller(max_retries=1) as (client, subject):
        subject.engine.error = Overloaded("queue full", 0.001)

        with pytest.raises(openai.RateLimitError) as caught:
            await client.embeddings.create(model=MODEL, input="w0")

    assert len(subject.engine.submitted) == 2
    assert caught.value.response.headers["retry-after-ms"] == "1"
