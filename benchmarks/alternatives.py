"""
What could do the same work without a server: plain Transformers, and this package's own encoder called directly.

Runs in a process of its own on one core with one thread; tokenising is included. `one by one` has no batches,
`sorted` pads length-sorted batches, `packed` lays them end to end.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AutoModel

from inference import DeviceConfig, EngineConfig
from inference.checkpoint import Checkpoint, open_checkpoints
from inference.device import open_devices
from inference.encoder import Encoder, load_encoder
from inference.request import Request

Way = Literal["one by one", "sorted", "packed"]
Dtype = Literal["float32", "bfloat16"]
Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]
Told = ParamSpec("Told")
Found = TypeVar("Found")

_POOL = 64  # texts that an offline job looks at together: as many as there are callers


@dataclass(frozen=True, slots=True)
class Spent:
    """What so many texts cost."""

    texts: int
    cpu_s: float
    wall_s: float


class Alternatives:
    """The process in which they run."""

    def __init__(self, core: int, dtype: Dtype = "float32") -> None:
        """Start it on this core, for models in these numbers."""
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(core, dtype))

    def do(self, work: Callable[Told, Found], *told: Told.args, **named: Told.kwargs) -> Found:
        """Run a function of a module there, which may ask for `models`."""
        return self._pool.submit(work, *told, **named).result()

    def offline(self, way: Way, budget: int, texts: Sequence[str], seconds: float) -> Spent:
        """Work through the texts, whole passes for at least so many seconds."""
        return self._pool.submit(_offline, way, budget, texts, seconds).result()

    def latencies(self, way: Way, texts: Sequence[str]) -> list[float]:
        """Answer one text after another; returns the seconds of each."""
        return self._pool.submit(_latencies, way, texts).result()

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Answer by plain Transformers, one text after another; in float32 what every other answer is compared with."""
        return self._pool.submit(_vectors, texts).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


class _Process:
    """What the process was started for."""

    dtype: Dtype = "float32"


def _begin(core: int, dtype: Dtype) -> None:
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    _Process.dtype = dtype


def _offline(way: Way, budget: int, texts: Sequence[str], seconds: float) -> Spent:
    run = _runner(way)
    run(models().tokenise(texts[:8])[:8])  # the first run pays for caches
    done, cpu, wall = 0, time.process_time(), time.perf_counter()
    while done == 0 or time.perf_counter() - wall < seconds:
        for start in range(0, len(texts), _POOL):
            pool = models().tokenise(texts[start : start + _POOL])
            for batch in _batches(way, pool, budget):
                run(batch)
        done += len(texts)
    return Spent(done, time.process_time() - cpu, time.perf_counter() - wall)


def _latencies(way: Way, texts: Sequence[str]) -> list[float]:
    run, held = _runner(way), models()
    took = []
    for text in texts:
        started = time.perf_counter()
        run(held.tokenise([text]))
        took.append(time.perf_counter() - started)
    return took


def _vectors(texts: Sequence[str]) -> Vectors:
    held = models()
    return np.concatenate([held.alone(held.tokenise([text])) for text in texts])


def _runner(way: Way) -> Callable[[list[Ids]], Vectors]:
    held = models()
    return {"one by one": held.alone, "sorted": held.padded, "packed": held.packed}[way]


def _batches(way: Way, pool: Sequence[Ids], budget: int) -> Iterator[list[Ids]]:
    """Cut a pool, sorted by length, into batches under the budget of computed tokens."""
    batch: list[Ids] = []
    for ids in sorted(pool, key=len):
        tokens = len(ids) * (len(batch) + 1) if way == "sorted" else sum(map(len, batch)) + len(ids)
        if batch and (way == "one by one" or tokens > budget):
            yield batch
            batch = []
        batch.append(ids)
    yield batch


@dataclass(frozen=True, slots=True)
class Models:
    """The default model, twice: plain, and as this package runs it."""

    tokenizer: Tokenizer
    plain: Any
    encoder: Encoder

    def tokenise(self, texts: Sequence[str]) -> list[Ids]:
        """Cut to the model's length, without padding."""
        return [np.asarray(encoding.ids, np.int32) for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    def alone(self, batch: list[Ids]) -> Vectors:
        """Run plain Transformers on one sequence."""
        ids = torch.from_numpy(batch[0].astype(np.int64))[None]
        with torch.inference_mode():
            hidden = self.plain(input_ids=ids).last_hidden_state
            return _numpy(F.normalize(hidden.mean(1)))

    def padded(self, batch: list[Ids]) -> Vectors:
        """Run plain Transformers on several, padded to the longest."""
        lengths = np.array([len(ids) for ids in batch])
        real = np.arange(lengths.max()) < lengths[:, None]  # [texts, longest]
        ids = np.zeros(real.shape, np.int64)
        ids[real] = np.concatenate(batch)
        mask = torch.from_numpy(real)
        with torch.inference_mode():
            hidden = self.plain(input_ids=torch.from_numpy(ids), attention_mask=mask.long()).last_hidden_state
            summed = (hidden * mask[..., None]).sum(1)
            return _numpy(F.normalize(summed / mask.sum(1, keepdim=True)))

    def packed(self, batch: list[Ids]) -> Vectors:
        """Run this package's encoder."""
        return np.stack(self.encoder.rows([Request("", ids) for ids in batch]))


def models() -> Models:
    """Return those of the process: the built-in default model, as the server serves it."""
    return _loaded(_Process.dtype)


@cache
def _loaded(dtype: Dtype) -> Models:
    (checkpoint,) = open_checkpoints(EngineConfig())
    [device] = open_devices(DeviceConfig(("cpu",), threads=1))
    numbers = getattr(torch, dtype)
    encoder = load_encoder(checkpoint, device, numbers)
    plain = AutoModel.from_pretrained(checkpoint.path, dtype=numbers, attn_implementation="sdpa", local_files_only=True)
    return Models(_tokenizer(checkpoint, encoder.max_length), plain.eval(), encoder)


def _tokenizer(checkpoint: Checkpoint, max_length: int) -> Tokenizer:
    tokenizer: Tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _numpy(rows: torch.Tensor) -> Vectors:
    array: Vectors = rows.float().numpy()
    return array
