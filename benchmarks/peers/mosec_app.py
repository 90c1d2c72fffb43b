"""mosec as its documentation shows it: batches of up to 32, 5 ms to fill one."""

from collections.abc import Sequence
from typing import Any

from mosec import Server, Worker

from benchmarks.peers.model import answer, embed, load


class Embeddings(Worker):  # type: ignore[misc] # it is not installed here
    """One text a call."""

    def __init__(self) -> None:
        load()

    def forward(self, data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Embed a batch."""
        return [answer(vector) for vector in embed([each["input"] for each in data])]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Embeddings, max_batch_size=32, max_wait_time=5, timeout=60, route="/v1/embeddings")
    server.run()  # reads --port and the like
