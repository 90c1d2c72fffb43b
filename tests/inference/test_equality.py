"""Every task, over many architectures: a batch of strangers answers what Transformers answers to each input alone."""

import itertools
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

from inference.checkpoint import read_checkpoint
from inference.device import Device
from inference.encoder import Encoder, load_encoder
from inference.request import Batch, Output, Request, Row, packed_shape
from inference.task import Task
from inference.tokenizer import TextTokenizer, Tokenised, read_vocabulary
from tests.architectures import ARCHITECTURES, LONGEST, Head, build, loader
from tests.fakes import Entry, Recorded, call

CPU = Device(torch.device("cpu"))
TASKS: Final[dict[Head, Task]] = {
    "base": "embed",
    "SequenceClassification": "classify",
    "TokenClassification": "token-classify",
    "MaskedLM": "fill-mask",
}
CASES = [(name, head) for name, known in ARCHITECTURES.items() for head in known.heads if head in TASKS]
TEXTS = (
    "The river turns the wheel.",
    "A mill",
    "The miller opened the gate and waited for the wheel to turn, and poured the first sack of grain. " * 3,
    "x",
    "Der Müller öffnet das Wehr früh am Morgen.",
)
PAIRS = (("Who opens the gate?", "The miller opened the gate, waited, and poured."), ("wheel", "water " * 20))


def quick(cases: list[tuple[str, Head]]) -> list[Any]:
    """Each architecture with one of its heads, in turn; the others take minutes."""
    turns: dict[str, int] = {name: place for place, name in enumerate(ARCHITECTURES)}
    parameters = []
    for name, group in itertools.groupby(cases, key=lambda case: case[0]):
        heads = list(group)
        chosen = turns[name] % len(heads)
        parameters += [
            pytest.param(*case, marks=() if place == chosen else pytest.mark.slow) for place, case in enumerate(heads)
        ]
    return parameters


def asked(path: Path, output: Output) -> list[Request]:
    """Texts of many lengths and pairs, in an order that no length explains; a mask in each where masks are filled."""
    file = read_checkpoint("m", path).tokenizer()
    tokenizer = TextTokenizer(file, LONGEST)
    pieces: list[Tokenised] = tokenizer.encode([*TEXTS, *PAIRS], "end")
    requests = [Request("m", piece.ids, piece.types, output) for piece in pieces]
    if output == "mask logits":
        for request in requests:
            request.tokens[[0, -1]] = read_vocabulary(file).mask
    return requests


def batch(requests: list[Request]) -> Batch:
    owner = call(*requests)
    entries = tuple(Entry(request, owner, Recorded(), 0.0) for request in requests)
    return Batch("m", entries, packed_shape([len(request.tokens) for request in requests]), 0.0)


def alone(model: Any, request: Request, mask: int | None) -> Row:
    """What plain Transformers answers to one input without any padding."""
    inputs = {"input_ids": torch.from_numpy(request.tokens.astype(np.int64))[None]}
    if request.types is not None and model.config.type_vocab_size > 1:  # of one type, Transformers fails on pairs
        inputs["token_type_ids"] = torch.from_numpy(request.types.astype(np.int64))[None]
    with torch.inference_mode():
        answer = model(**inputs)
    if request.output == "vector":
        pooled = answer.last_hidden_state[0].mean(0)
        return np.asarray(torch.nn.functional.normalize(pooled, dim=0))
    logits = np.asarray(answer.logits[0])
    return logits[request.tokens == mask] if request.output == "mask logits" else logits


def load(path: Path) -> Encoder:
    checkpoint = read_checkpoint("m", path, task="classify" if path.name.endswith("SequenceClassification") else None)
    return load_encoder(checkpoint, CPU, torch.float32, read_vocabulary(checkpoint.tokenizer()))


@pytest.mark.parametrize(("architecture", "head"), quick(CASES))
def test_a_batch_of_strangers_answers_what_each_gets_alone(tmp_path: Path, architecture: str, head: Head) -> None:
    path = build(architecture, head, tmp_path)
    encoder = load(path)
    plain = loader(architecture, head).from_pretrained(path, dtype=torch.float32).eval()
    requests = asked(path, encoder.output)
    mask = read_vocabulary(read_checkpoint("m", path).tokenizer()).mask

    answers = encoder.launch(batch(requests)).wait()

    print(f"{architecture} {head}: {'packed' if encoder.packed else f'padded, since {encoder.padded_because}'}")
    for request, answer in zip(requests, answers, strict=True):
        expected = alone(plain, request, mask)
        assert isinstance(answer, np.ndarray) and answer.shape == expected.shape
        assert np.abs(answer - expected).max() <= (1e-5 if head == "base" else 1e-4 * max(1, np.abs(expected).max()))
