"""LitServe as its documentation shows it: batches of up to 32, 5 ms to fill one."""

import os
from collections.abc import Sequence
from typing import Any

import litserve as ls

from benchmarks.peers.model import answer, embed, load


class Embeddings(ls.LitAPI):  # type: ignore[misc] # it is not installed here
    """One text a call."""

    def setup(self, device: str) -> None:
        """Load the model."""
        load()

    def decode_request(self, request: dict[str, Any]) -> str:
        """Take the text."""
        return str(request["input"])

    def predict(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed a batch."""
        return embed(texts)

    def encode_response(self, output: Sequence[float]) -> dict[str, Any]:
        """Say it as OpenAI does."""
        return answer(output)


if __name__ == "__main__":
    api = Embeddings(max_batch_size=32, batch_timeout=0.005, api_path="/v1/embeddings")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(port=int(os.environ["PORT"]), num_api_servers=1, generate_client_file=False, log_level="warning")
