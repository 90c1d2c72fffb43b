"""
Every task on one core: answers a CPU-second, beside Transformers' own pipelines over the same texts.

A pipeline runs one by one, in batches of 8 and 32, and in batches of 32 sorted by length; the fastest counts. Headrace
answers 64 callers with one text each, through its client. Where no real model can be had, the default model's encoder
gets a head of random numbers: it costs what a trained one costs.
"""

import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.utils.logging import set_verbosity_error

from benchmarks.checkpoints import checkpoint
from benchmarks.results import Figure, Findings, Goal
from benchmarks.texts import passages
from inference import (
    Classify,
    Client,
    DeviceConfig,
    Embed,
    Engine,
    EngineConfig,
    FillMask,
    Inputs,
    Limits,
    ModelSource,
    Rerank,
    Sparse,
    Tag,
    Task,
    Terms,
    ZeroShot,
)

_CALLERS: Final = 64
_TEXTS: Final = 128
_GOAL: Final = 1.5
_TERMS: Final = Terms(600.0, truncation="end")
_LABELS: Final = ("language", "weather", "sports")
_QUERY: Final = "how does an expression evaluate to a value"
_NLI: Final = {0: "contradiction", 1: "neutral", 2: "entailment"}
_WAYS: Final = {
    "one by one": (1, False),
    "batches of 8": (8, False),
    "batches of 32": (32, False),
    "sorted": (32, True),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One task: its model, what is asked about a text, and the pipeline that answers the same."""

    name: str
    model: Callable[[], Path]
    ask: Callable[[Client, str], Awaitable[Any]]
    pipeline: str
    asked: Callable[[str], Any] = str
    options: dict[str, Any] | None = None
    task: Task | None = None
    finish: Callable[[Any], Any] | None = None  # of what the pipeline answers, where that is not the task's answer yet


def _minilm() -> Path:
    return checkpoint("all-MiniLM-L6-v2")


def _reranker() -> Path:
    return checkpoint("ms-marco-MiniLM-L-12-v2")


def _tagger() -> Path:
    return checkpoint("rampart-pii")


@cache
def _with_head(kind: Any) -> Path:
    """Give the default model's encoder a head of random numbers."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-"))
    torch.manual_seed(0)
    options = {"id2label": _NLI, "label2id": {label: key for key, label in _NLI.items()}}
    kind.from_pretrained(_minilm(), local_files_only=True, **options).save_pretrained(folder)
    AutoTokenizer.from_pretrained(_minilm()).save_pretrained(folder)
    return folder


def _language_model() -> Path:
    return _with_head(AutoModelForMaskedLM)


def _inference_model() -> Path:
    return _with_head(AutoModelForSequenceClassification)


def _masked(text: str) -> str:
    words = text.split()
    return " ".join([*words[: len(words) // 2], "[MASK]", *words[len(words) // 2 + 1 :]])


def _pair(text: str) -> dict[str, str]:
    return {"text": _QUERY, "text_pair": text}


def _weights(logits: torch.Tensor) -> torch.Tensor:
    """SPLADE's formula: [1, tokens, vocabulary] to [vocabulary]."""
    return torch.log1p(torch.relu(logits)).amax(1)[0]


ROWS: Final = (
    Row(
        "embed",
        _minilm,
        lambda to, text: to.embed(Embed(Inputs([text]), _TERMS)),
        "feature-extraction",
        options={"return_tensors": True},
    ),
    Row(
        "rerank",
        _reranker,
        lambda to, text: to.rerank(Rerank(Inputs([(_QUERY, text)]), _TERMS)),
        "text-classification",
        _pair,
    ),
    Row(
        "classify",
        _inference_model,
        lambda to, text: to.classify(Classify(Inputs([text]), _TERMS)),
        "text-classification",
        options={"top_k": None},
    ),
    Row(
        "token-classify",
        _tagger,
        lambda to, text: to.tag(Tag(Inputs([text]), _TERMS)),
        "token-classification",
        options={"aggregation_strategy": "simple"},
    ),
    Row(
        "zero-shot",
        _inference_model,
        lambda to, text: to.zero_shot(ZeroShot(Inputs([text]), _LABELS, _TERMS)),
        "zero-shot-classification",
        options={"candidate_labels": list(_LABELS)},
    ),
    Row(
        "fill-mask",
        _language_model,
        lambda to, text: to.fill_mask(FillMask(Inputs([_masked(text)]), _TERMS)),
        "fill-mask",
        _masked,
    ),
    Row(
        "sparse",
        _language_model,
        lambda to, text: to.sparse(Sparse(Inputs([text]), _TERMS)),
        "feature-extraction",  # its logits at every token
        options={"return_tensors": True},
        task="sparse",
        finish=_weights,
    ),
)


def run(rounds: int, seconds: float) -> Findings:
    """Measure rounds of each way in turn, each over at least `seconds`."""
    figures, goals = [], []
    for place, row in enumerate(ROWS):
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=_pin) as process:
            spent = {way: [] for way in (*_WAYS, "headrace")}  # type: dict[str, list[float]]
            for _, way in itertools.product(range(rounds), spent):
                spent[way].append(process.submit(_answers_a_second, place, way, seconds).result())
        figures += [Figure(f"{row.name}, {way}", "answers a CPU-second", tuple(found)) for way, found in spent.items()]
        best = [max(spent[way][turn] for way in _WAYS) for turn in range(rounds)]
        ratio = median(ours / theirs for ours, theirs in zip(spent["headrace"], best, strict=True))
        sys.stderr.write(f"{row.name}: {spent}\n")
        goals.append(Goal(f"{row.name}: answers a CPU-second / the fastest pipeline's", ratio, _GOAL))
    conditions = {
        "texts": f"{_TEXTS} passages, median 20 words",
        "callers": _CALLERS,
        "threads": 1,
        "rounds": rounds,
        "models": {row.name: row.model.__name__.strip("_").replace("_", " ") for row in ROWS},
    }
    return Findings("tasks", "cpu", figures, goals, conditions)


def _pin() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    set_verbosity_error()  # type: ignore[no-untyped-call]


def _answers_a_second(place: int, way: str, seconds: float) -> float:
    """Work through the texts, whole passes for at least so many seconds of CPU; the first few pay for caches."""
    answer = _headrace(place) if way == "headrace" else _piped(place, *_WAYS[way])
    texts = passages(_TEXTS)
    answer(texts[:8])
    done, started = 0, time.process_time()
    while done == 0 or time.process_time() - started < seconds:
        answer(texts)
        done += len(texts)
    return done / (time.process_time() - started)


def _piped(place: int, batch: int, by_length: bool) -> Callable[[Sequence[str]], None]:
    row, ask = ROWS[place], _pipeline(place)

    def answer(texts: Sequence[str]) -> None:
        ordered = sorted(texts, key=len) if by_length else texts
        asked = (row.asked(text) for text in ordered)  # one after another: a list would have all answers at once
        for answered in ask(asked, batch_size=batch, **(row.options or {})):
            if row.finish is not None:
                row.finish(answered)

    return answer


@cache
def _pipeline(place: int) -> Any:
    row = ROWS[place]
    path = str(row.model())
    options: dict[str, Any] = {"tokenizer": AutoTokenizer.from_pretrained(path, model_max_length=512)}
    if row.task == "sparse":
        options["model"] = AutoModelForMaskedLM.from_pretrained(path)
    kind: Any = row.pipeline
    return pipeline(kind, **({"model": path} | options), device="cpu", dtype=torch.float32)


@cache
def _headrace(place: int) -> Callable[[Sequence[str]], None]:
    row, runner = ROWS[place], asyncio.Runner()
    limits = Limits(latency_target_s=1.0)  # 64 callers on one core wait that long whatever the batch
    config = EngineConfig(
        (ModelSource(row.name, str(row.model()), task=row.task),),
        device=DeviceConfig(("cpu",), threads=1),
        limits=limits,
    )
    client = Client(Engine(config), limits)
    runner.run(client.start())

    async def answer_all(texts: Sequence[str]) -> None:
        left = iter(texts)

        async def caller() -> None:
            for text in left:
                await row.ask(client, text)

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))

    return lambda texts: runner.run(answer_all(texts))
