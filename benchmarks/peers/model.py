"""
The model behind the hand-written servers, as plain Transformers has it; knows nothing of Headrace, and runs without it.

GROUPS says how a batch is run: `together`, padded to its longest, as examples show it; or `by length`, in groups of
neighbours in length that pad little, which is the best one can do for this model on a CPU without touching its code.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

import torch
from transformers import AutoModel, AutoTokenizer

_MAX_LENGTH: Final = 256
_GROUP_TOKENS: Final = 512  # padding included


@cache
def _loaded() -> tuple[Any, Any]:
    torch.set_num_threads(1)
    folder = os.environ["MODEL"]
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return AutoTokenizer.from_pretrained(folder), model.eval()


def load() -> None:
    """Load it now, and run it once."""
    embed(["warm up"])


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Embed texts: mean pooling, length 1."""
    tokenizer, _ = _loaded()
    ids = tokenizer(list(texts), truncation=True, max_length=_MAX_LENGTH, padding=False)["input_ids"]
    vectors: list[list[float]] = [[]] * len(texts)
    for group in _groups(ids) if os.environ.get("GROUPS") == "by length" else [list(range(len(ids)))]:
        for index, vector in zip(group, _forward([ids[index] for index in group]), strict=True):
            vectors[index] = vector
    return vectors


def answer(vector: Sequence[float]) -> dict[str, Any]:
    """Say it as OpenAI does."""
    return {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": vector}]}


def _groups(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    group: list[int] = []
    for index in sorted(range(len(ids)), key=lambda index: len(ids[index])):
        if group and (len(group) + 1) * len(ids[index]) > _GROUP_TOKENS:
            yield group
            group = []
        group.append(index)
    yield group


def _forward(ids: Sequence[Sequence[int]]) -> list[list[float]]:
    longest = max(map(len, ids))
    rows = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids])  # [texts, longest]
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    _, model = _loaded()
    with torch.inference_mode():
        hidden = model(input_ids=rows, attention_mask=mask).last_hidden_state * mask[..., None]
        pooled = hidden.sum(1) / mask.sum(1, keepdim=True)
        vectors: list[list[float]] = torch.nn.functional.normalize(pooled, dim=1).tolist()
    return vectors
