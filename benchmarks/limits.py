"""
What nothing here can pass: the model's forwards, its tokenizer, HTTP and the matrix products, each alone on one core.

Forwards run offline on token ids, by batch size and length; the products are those of the model's linear layers, all
of them once. HTTP is the whole application before a model that is free. All per CPU-second of what is measured.

    python -m benchmarks limits --rounds 3 --seconds 2
"""

import asyncio
import copy
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final, Literal

import numpy as np
import torch

from benchmarks import machine, texts
from benchmarks.alternatives import Alternatives, Ids, Models, Spent, Vectors, models
from benchmarks.callers import ClosedLoop, WrongAnswer
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import free_ports, running
from inference.prepacked import prepack

Way = Literal["one by one", "padded", "padded by length", "packed"]

_TEXTS: Final = 128  # of the mix: as many as the largest batches take some of
_SIZES: Final = (8, 32)
_LENGTHS: Final = (16, 64, 256)  # tokens of every text, where lengths do not differ
_ROWS: Final = (64, 512, 2048)  # tokens that a product takes at once
_CALLERS: Final = 64
_MIN_COSINE: Final = 0.99999
_TEXTS_UNIT: Final = "texts per CPU-second"
_TOKENS_UNIT: Final = "tokens per CPU-second"
_SHARE_UNIT: Final = "share of the best products' tokens"
_WAYS: Final[tuple[Way, ...]] = ("padded", "padded by length", "packed")

Found = dict[tuple[str, str], list[float]]


def run(rounds: int, seconds: float) -> Findings:
    """Measure all of it in interleaved rounds."""
    core, callers_core = machine.two_cores()
    os.sched_setaffinity(0, {callers_core})
    mix = texts.passages(_TEXTS)
    found: Found = defaultdict(list)
    alternatives = Alternatives(core)
    try:
        ids = alternatives.do(_tokenised, mix)
        cosine = alternatives.do(_lowest_cosine, ids)
        for number in range(rounds):
            sys.stderr.write(f"round {number + 1} of {rounds}\n")
            best = _products_round(found, alternatives, seconds)
            _forwards_round(found, alternatives, ids, best, seconds)
            spent = alternatives.do(_tokenising, mix, seconds)
            found["tokenizer", _TEXTS_UNIT].append(spent.texts / spent.cpu_s)
            found[f"HTTP, {_CALLERS} callers, a free model", _TEXTS_UNIT].append(_http(core, mix, seconds))
    finally:
        alternatives.close()
    figures = [Figure(name, unit, tuple(values)) for (name, unit), values in found.items()]
    return Findings("limits", "cpu", figures, _goals(found, cosine), _conditions(rounds, seconds))


def cut(way: Way, pool: Sequence[Ids], size: int) -> list[list[Ids]]:
    """Cut a pool into batches of so many, in the order of arrival or of length."""
    ordered = sorted(pool, key=len) if way == "padded by length" else list(pool)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _products_round(found: Found, alternatives: Alternatives, seconds: float) -> float:
    """Return the tokens that the best of them took per CPU-second."""
    best = 0.0
    for prepacked in (False, True):
        for rows in _ROWS:
            name = f"matrix products{', prepacked' if prepacked else ''}, {rows} tokens"
            spent, flops = alternatives.do(_products, rows, seconds, prepacked=prepacked)
            found[name, _TOKENS_UNIT].append(spent.texts / spent.cpu_s)
            found[name, "GFLOP per CPU-second"].append(flops * spent.texts / spent.cpu_s / 1e9)
            best = max(best, spent.texts / spent.cpu_s)
    return best


def _forwards_round(found: Found, alternatives: Alternatives, mix: Sequence[Ids], best: float, seconds: float) -> None:
    pools = {"the mix": list(mix)} | {f"{length} tokens": [_ids(length)] * max(_SIZES) for length in _LENGTHS}
    for pool_name, pool in pools.items():
        mean = sum(map(len, pool)) / len(pool)
        for way, size in _shapes():
            name = f"{pool_name}, {way}" + (f", batches of {size}" if size > 1 else "")
            spent = alternatives.do(_forwards, way, cut(way, pool, size), seconds)
            found[name, _TEXTS_UNIT].append(spent.texts / spent.cpu_s)
            found[name, _TOKENS_UNIT].append(mean * spent.texts / spent.cpu_s)
            found[name, _SHARE_UNIT].append(mean * spent.texts / spent.cpu_s / best)


def _shapes() -> list[tuple[Way, int]]:
    return [("one by one", 1), *((way, size) for way in _WAYS for size in _SIZES)]


def _ids(length: int) -> Ids:
    return np.full(length, 2003, np.int32)  # any word: what it costs does not depend on it


def _http(core: int, mix: Sequence[str], seconds: float) -> float:
    """Return the texts per CPU-second that the application answers when its model costs nothing."""

    async def watch() -> float:
        window = await ClosedLoop(port, mix, _CALLERS, process.cpu_s).run(seconds)
        return window.answers / window.server_cpu_s

    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.instant", str(port), "idle"]
    with running(core, command, environment=os.environ, port=port, ready="/readyz") as process:
        return asyncio.run(watch())


# In the process of the alternatives:


def _tokenised(mix: Sequence[str]) -> list[Ids]:
    return models().tokenise(mix)


def _tokenising(mix: Sequence[str], seconds: float) -> Spent:
    return _again(lambda: len(models().tokenise(mix)), seconds)


def _forwards(way: Way, batches: Sequence[list[Ids]], seconds: float) -> Spent:
    forward = _forward(models(), way)
    forward(batches[0])  # the first run pays for caches
    return _again(lambda: sum(len(forward(batch)) for batch in batches), seconds)


def _products(rows: int, seconds: float, *, prepacked: bool) -> tuple[Spent, int]:
    """Run every linear layer of the encoder on so many tokens; also returns the operations that a token takes."""
    layers = [layer for layer in models().plain.encoder.modules() if isinstance(layer, torch.nn.Linear)]
    own = torch.nn.ModuleList(copy.deepcopy(layer) for layer in layers)
    if prepacked:
        prepack(own)
    inputs = {layer.in_features: torch.randn(rows, layer.in_features) for layer in layers}

    def once() -> int:
        with torch.inference_mode():
            for layer, width in zip(own, [layer.in_features for layer in layers], strict=True):
                layer(inputs[width])
        return rows

    once()
    return _again(once, seconds), sum(2 * layer.in_features * layer.out_features for layer in layers)


def _lowest_cosine(pool: Sequence[Ids]) -> float:
    """Compare every way with one by one; raises WrongAnswer: the speed of wrong answers is nothing."""
    expected = np.concatenate([models().alone([ids]) for ids in pool]).astype(np.float64)
    found = [
        np.concatenate([_forward(models(), way)(batch) for batch in cut(way, pool, 32)]) for way in ("padded", "packed")
    ]
    cosine = min(float(np.einsum("ij,ij->i", expected, vectors).min()) for vectors in found)
    if cosine < _MIN_COSINE:
        raise WrongAnswer(f"an answer has cosine {cosine:.6f} with plain Transformers")
    return cosine


def _forward(held: Models, way: Way) -> Callable[[list[Ids]], Vectors]:
    return {"one by one": held.alone, "packed": held.packed}.get(way, held.padded)


def _again(once: Callable[[], int], seconds: float) -> Spent:
    """Do it for at least so long; `once` returns how many texts, or tokens, it did."""
    done, cpu, wall = 0, time.process_time(), time.perf_counter()
    while done == 0 or time.perf_counter() - wall < seconds:
        done += once()
    return Spent(done, time.process_time() - cpu, time.perf_counter() - wall)


def _goals(found: Found, cosine: float) -> list[Goal]:
    """Ratios within a round."""
    packed = f"the mix, packed, batches of {max(_SIZES)}"
    others = [
        name for name, unit in found if name.startswith("the mix, ") and "packed" not in name and unit == _TEXTS_UNIT
    ]
    best = max(others, key=lambda name: median(found[name, _TEXTS_UNIT]))
    pairs = zip(found[packed, _TEXTS_UNIT], found[best, _TEXTS_UNIT], strict=True)
    return [
        Goal("lowest cosine with plain Transformers", cosine, _MIN_COSINE),
        Goal(f"{packed} / {best}", median(mine / theirs for mine, theirs in pairs), 1.0),
        Goal(f"{packed}, {_SHARE_UNIT}", median(found[packed, _SHARE_UNIT]), 0.5),
    ]


def _conditions(rounds: int, seconds: float) -> dict[str, object]:
    return {
        "model": "all-MiniLM-L6-v2, float32",
        "the mix": f"{_TEXTS} passages, median 20 words, in the order of arrival",
        "forwards": "of token ids: tokenising apart. Padded: plain Transformers; packed: the package's own encoder",
        "matrix products": "every linear layer of the model once; prepacked as oneDNN lays weights out, where it can",
        "rounds": rounds,
        "at least seconds a measurement": seconds,
        "threads": 1,
    }
