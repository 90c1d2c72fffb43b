"""BentoML as its documentation shows it: adaptive batches of up to 32, behind a service that takes single calls."""

from typing import Any

import bentoml

from benchmarks.peers.model import answer, embed, load

_TIMEOUT_S = 60
_FOR_EVER = {"max_requests": 10**9, "max_age": 1e9}  # else it closes the connection to a service under other calls


@bentoml.service(workers=1, traffic={"timeout": _TIMEOUT_S}, runner_connection=_FOR_EVER)
class Model:
    """What is batched."""

    def __init__(self) -> None:
        load()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000 * _TIMEOUT_S)  # type: ignore[untyped-decorator]
    def embed(self, texts: list[str]) -> list[list[float]]:
        """Embed a batch."""
        return embed(texts)


@bentoml.service(workers=1, traffic={"timeout": _TIMEOUT_S})
class Embeddings:
    """One text a call."""

    model = bentoml.depends(Model)

    @bentoml.api(route="/v1/embeddings")  # type: ignore[untyped-decorator]
    async def embeddings(self, input: str, encoding_format: str = "float", truncate: bool = True) -> dict[str, Any]:
        """Answer as OpenAI does."""
        (vector,) = await self.model.to_async.embed([input])
        return answer(vector)
