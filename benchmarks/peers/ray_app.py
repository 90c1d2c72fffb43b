"""Ray Serve as its documentation shows it: batches of up to 32, 5 ms to fill one."""

import os
from collections.abc import Sequence

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from benchmarks.peers.model import answer, embed, load


class Embeddings:
    """One text a call."""

    def __init__(self) -> None:
        load()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)  # type: ignore[untyped-decorator] # it is not installed here
    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed a batch."""
        return embed(texts)

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer as OpenAI does; a GET asks whether it is ready."""
        if request.method == "GET":
            return JSONResponse({})
        return JSONResponse(answer(await self.embed((await request.json())["input"])))


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    deployment = serve.deployment(Embeddings, max_ongoing_requests=1000)
    serve.run(deployment.bind(), route_prefix="/", blocking=True)
