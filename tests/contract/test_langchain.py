"""What LangChain makes of our answers, through OpenAI's client."""

import numpy as np
import pytest
from langchain_openai import OpenAIEmbeddings

from tests.gateway.fakes import MODEL, ready, vector

pytestmark = pytest.mark.anyio


async def test_it_embeds_documents_and_queries() -> None:
    async with ready() as subject:
        embeddings = OpenAIEmbeddings(
            model=MODEL,
            base_url="http://gateway/v1",
            api_key="unused",
            check_embedding_ctx_length=False,  # else it sends the token ids of another model
            http_async_client=subject.http,
        )
        documents = await embeddings.aembed_documents(["w0", "w1"])
        query = await embeddings.aembed_query("w0")

    np.testing.assert_array_equal(np.float32(documents), [vector([2, 4, 3]), vector([2, 5, 3])])
    np.testing.assert_array_equal(np.float32(query), vector([2, 4, 3]))
