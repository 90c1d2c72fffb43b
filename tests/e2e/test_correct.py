"""What comes out over HTTP is what plain Transformers gives for the same input alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from transformers import AutoModel

from inference.fetch import DEFAULT_MODEL
from tests.e2e.conftest import Headrace
from tests.tiny import TINY, VOCABULARY

pytestmark = pytest.mark.e2e

MODELS = (*TINY, DEFAULT_MODEL.name)
LONGEST = dict.fromkeys(TINY, 128) | {DEFAULT_MODEL.name: 256}


@pytest.fixture(scope="module")
def paths(tiny_paths: dict[str, Path], minilm_path: Path) -> dict[str, Path]:
    return {**tiny_paths, DEFAULT_MODEL.name: minilm_path}


@pytest.fixture(scope="module")
def server(paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Headrace]:
    """One process that serves all six models."""
    models = [word for name, path in paths.items() for word in ("--model", f"{name}={path}")]
    server = Headrace(tmp_path_factory.mktemp("served") / "log", "--no-access-log", "--threads", "1", *models)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def served(server: Headrace) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=60) as http:
        yield http


def mixture(seed: int, model: str, count: int) -> list[list[int]]:
    """Random lengths with 1 token and the maximum among them, in random order."""
    chance = np.random.default_rng(seed)
    vocabulary = VOCABULARY if model in TINY else 30000
    lengths = [1, LONGEST[model], *chance.integers(1, LONGEST[model], count - 2)]
    chance.shuffle(lengths)
    return [chance.integers(5, vocabulary, length).tolist() for length in lengths]


def alone_through_transformers(path: Path, sequences: list[list[int]]) -> np.ndarray:
    model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    with torch.inference_mode():
        means = [model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in sequences]
    return torch.nn.functional.normalize(torch.stack(means)).numpy()


def embed(http: httpx2.Client, model: str, *sequences: list[int]) -> list[list[float]]:
    answer = http.post("/v1/embeddings", json={"model": model, "input": list(sequences)})
    assert answer.status_code == 200, answer.text
    return [item["embedding"] for item in answer.json()["data"]]


@pytest.mark.parametrize("model", MODELS)
def test_alone_and_among_strangers_the_answer_is_the_same(
    served: httpx2.Client, paths: dict[str, Path], model: str
) -> None:
    sequences = mixture(1, model, 24)
    expected = alone_through_transformers(paths[model], sequences)
    strangers = {name: mixture(2, name, 8) for name in MODELS}

    with ThreadPoolExecutor(24) as pool:
        for _ in range(3):
            for name in MODELS:
                pool.submit(embed, served, name, *strangers[name])
        together = list(pool.map(lambda ids: embed(served, model, ids)[0], sequences))
        in_one_call = embed(served, model, *sequences)
    by_itself = [embed(served, model, ids)[0] for ids in sequences]

    for answers in (together, in_one_call, by_itself):
        got = np.array(answers, np.float32)
        assert np.abs(got - expected).max() <= 1e-5
        assert (got * expected).sum(1).min() >= 0.99999


def test_each_model_says_whether_it_is_packed(server: Headrace) -> None:
    server.until(lambda: server.url)

    assert "model bert: float32 on cpu, packed" in server.said
    assert "model mpnet: float32 on cpu, padded, since its attention ignores the interface" in server.said
