"""
What a GPU does with packed batches: offline by graphs and by eager launches, behind the engine, behind HTTP.

BERTs of three sizes with random weights in float16, texts of one length. `gpu-offline` runs batches one after the
other, two in flight; `gpu-serving` has callers with one text a call, and with 32.
"""

import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pynvml
import torch
import uvloop

from benchmarks.berts import SIZES, Size, save_bert
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import free_ports, running
from benchmarks.swarm import Load, percentile_99
from inference import DeviceConfig, Engine, EngineConfig, InferenceError, Limits, ModelSource
from inference.batcher import Batcher
from inference.checkpoint import read_checkpoint
from inference.device import Device
from inference.encoder import Encoder, load_encoder
from inference.loading import LoadedModel
from inference.request import Batch, Call, Entry, Request, Result, packed_shape
from inference.scheduler import Scheduler

LENGTHS: Final = (20, 128, 512)  # tokens a text
_BUDGET: Final = 16384  # tokens a batch
_MANY: Final = 32  # texts of a call that has many
_TARGET_MS: Final = 1000
_PROCESSES: Final = 5  # that call
_LEAD_IN_S: Final = 0.7
_MOST_CALLS: Final = 200  # of one of them at once


Submit = Callable[[Call], Awaitable[Sequence[Result]]]


class Notes:
    """Every round's values, by figure and unit."""

    def __init__(self) -> None:
        """Start with none."""
        self.values: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, name: str, unit: str, value: float) -> None:
        """Take one."""
        self.values[name, unit].append(value)
        sys.stderr.write(f"{name}: {value:.5g} {unit}\n")

    def median(self, name: str, unit: str) -> float:
        """Return the median of a figure's rounds."""
        return float(np.median(self.values[name, unit]))

    def figures(self) -> list[Figure]:
        """Return all of them."""
        return [Figure(name, unit, tuple(rounds)) for (name, unit), rounds in self.values.items()]


class _Nobody:
    """Whom a batch answers that nobody asked for."""

    def succeed(self, result: Result) -> None:
        pass

    def fail(self, error: InferenceError) -> None:
        pass


def run_offline(rounds: int, seconds: float) -> Findings:
    """Run full batches of one length, eagerly and by graphs; one text alone; plain padded batches beside them."""
    notes, place = Notes(), torch.device("cuda", 0)
    ceiling = _matmul_flops(place)
    notes.add("ceiling: product of 8192 x 8192 matrices", "TFLOP/s", ceiling / 1e12)
    for size in SIZES:
        with _saved(size) as path:
            plain = _Plain(path, place)
            encoder = load_encoder(read_checkpoint("m", path), Device(place), torch.float16)
            for way in ("eager", "graphs"):
                if way == "graphs":
                    _record(notes, size, encoder)
                for length, _ in itertools.product(LENGTHS, range(rounds)):
                    name = f"{size.name}, {length} tokens, {way}"
                    rate, launch_s = _offline(encoder, length, seconds)
                    notes.add(name, "texts/s", rate)
                    notes.add(name, "of the ceiling", rate * size.flops(length) / ceiling)
                    notes.add(f"{name}: launch of {_BUDGET // length} texts", "host ms", 1000 * launch_s)
                for _ in range(rounds):
                    notes.add(f"{size.name}, one text of 20 tokens, {way}", "p50 ms", 1000 * _alone_s(encoder))
            for length, _ in itertools.product(LENGTHS, range(rounds)):
                rate = plain.texts_per_s(length, seconds)
                notes.add(f"{size.name}, {length} tokens, plain Transformers, padded", "texts/s", rate)
            del encoder, plain
            torch.cuda.empty_cache()
    return Findings("gpu-offline", _kind(), notes.figures(), [], _conditions(rounds, seconds))


def run_serving(rounds: int, seconds: float) -> Findings:
    """Serve all three from one process: called in it, and over HTTP, parsed in it and by processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {size: save_bert(Path(folder) / _key(size), size) for size in SIZES}
        served = _Served(paths, rounds, seconds)
        uvloop.run(served.in_process())
        for workers in (_http_workers(), 0):
            served.behind_http(workers)
    return Findings("gpu-serving", _kind(), served.notes.figures(), served.goals, _conditions(rounds, seconds))


# Offline.


def _requests(model: str, length: int, count: int, seed: int) -> list[Request]:
    ids = np.random.default_rng(seed).integers(5, 30000, (count, length)).astype(np.int32)
    return [Request(model, of_one) for of_one in ids]


def _batch(length: int, count: int, seed: int = 0) -> Batch:
    call = Call(_requests("m", length, count, seed), float("inf"))
    entries = tuple(Entry(request, call, _Nobody(), 0.0) for request in call.requests)
    return Batch("m", entries, packed_shape([length] * count), 0.0)


def _offline(encoder: Encoder, length: int, seconds: float) -> tuple[float, float]:
    """Run full batches, two in flight; returns texts a second and the host's seconds a launch."""
    count = _BUDGET // length
    batches = itertools.cycle([_batch(length, count, seed) for seed in range(4)])
    for _ in range(3):
        encoder.launch(next(batches)).wait()
    started, done, launch_s, flying = time.perf_counter(), 0, 0.0, deque([encoder.launch(next(batches))])
    while (now := time.perf_counter()) < started + seconds:
        flying.append(encoder.launch(next(batches)))
        launch_s += time.perf_counter() - now
        flying.popleft().wait()
        done += 1
    return count * done / (time.perf_counter() - started), launch_s / done


def _alone_s(encoder: Encoder) -> float:
    """Return the median seconds of one text of 20 tokens on an idle device."""
    batch, took = _batch(20, 1), list[float]()
    for _ in range(120):
        started = time.perf_counter()
        encoder.launch(batch).wait()
        took.append(time.perf_counter() - started)
    return float(np.median(took[20:]))


def _record(notes: Notes, size: Size, encoder: Encoder) -> None:
    before, started = torch.cuda.memory_reserved(), time.perf_counter()
    free = torch.cuda.mem_get_info()[0]
    graphs = encoder.record_graphs(_BUDGET)
    torch.cuda.synchronize()
    notes.add(f"{size.name}: recording {graphs} graphs", "s", time.perf_counter() - started)
    notes.add(f"{size.name}: graphs' tensors", "MB", (torch.cuda.memory_reserved() - before) / 1e6)
    notes.add(f"{size.name}: graphs altogether", "MB", (free - torch.cuda.mem_get_info()[0]) / 1e6)


class _Plain:
    """What a script would do: plain Transformers in float16, padded, with the best of some batch sizes."""

    def __init__(self, path: Path, place: torch.device) -> None:
        from transformers import AutoModel  # noqa: PLC0415 - the serving benchmark does without

        self._place = place
        self._model = AutoModel.from_pretrained(path, dtype=torch.float16).eval().to(place)

    def texts_per_s(self, length: int, seconds: float) -> float:
        return max(self._rate(length, count, seconds / 2) for count in (128, 512, _BUDGET // length))

    @torch.inference_mode()
    def _rate(self, length: int, count: int, seconds: float) -> float:
        ids = torch.randint(5, 30000, (count, length))
        self._answer(ids)
        started, done = time.perf_counter(), 0
        while time.perf_counter() < started + seconds:
            self._answer(ids)
            done += 1
        return count * done / (time.perf_counter() - started)

    def _answer(self, ids: torch.Tensor) -> Any:
        placed = ids.to(self._place)
        mask = torch.ones_like(placed)
        hidden = self._model(input_ids=placed, attention_mask=mask).last_hidden_state.float()
        return torch.nn.functional.normalize(hidden.mean(1), dim=1).cpu()


def _matmul_flops(place: torch.device) -> float:
    a, b = (torch.randn(8192, 8192, device=place, dtype=torch.float16) for _ in range(2))
    took = []
    for _ in range(13):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        a @ b
        ended.record()
        ended.synchronize()
        took.append(began.elapsed_time(ended) / 1000)
    return 2 * 8192**3 / float(np.median(took[3:]))


# Served.


class _Served:
    """The models, served in several ways."""

    def __init__(self, paths: Mapping[Size, Path], rounds: int, seconds: float) -> None:
        self.notes = Notes()
        self.goals: list[Goal] = []
        self._paths = paths
        self._rounds = rounds
        self._seconds = seconds
        self._offline: dict[tuple[Size, int], float] = {}  # texts a second, by length

    async def in_process(self) -> None:
        """Measure the encoders offline, and then the engine around them."""
        limits = Limits(latency_target_s=_TARGET_MS / 1000)
        sources = tuple(ModelSource(_key(size), str(path)) for size, path in self._paths.items())
        engine = Engine(EngineConfig(sources, device=DeviceConfig(("cuda",)), limits=limits))
        engine.load()
        loaded = engine._loaded  # noqa: SLF001 - the very ones, while they are idle
        for size, length, _ in itertools.product(SIZES, LENGTHS, range(self._rounds)):
            name = f"{size.name}, {length} tokens, offline"
            self.notes.add(name, "texts/s", _offline(loaded[_key(size)].encoder, length, self._seconds)[0])
            self._offline[size, length] = self.notes.median(name, "texts/s")
        size, length = SIZES[1], LENGTHS[1]
        for in_flight in (1, 2, 3):
            batcher = _batcher(loaded[_key(size)], limits, in_flight)
            name = f"{size.name}, {length} tokens, engine, {in_flight} batches in flight"
            await self._submit(name, batcher.submit, size, length, _MANY)
            batcher.close()
        engine.start()
        for size, length, many in itertools.product(SIZES, LENGTHS, (1, _MANY)):
            name = f"{size.name}, {length} tokens, engine, {many} a call"
            await self._submit(name, engine.submit, size, length, many)
            self._compare(name, size, length, 0.95)
        await engine.drained()
        engine.close()
        del engine, loaded, batcher
        torch.cuda.empty_cache()

    async def _submit(self, name: str, submit: Submit, size: Size, length: int, many: int) -> None:
        in_flight = 4 * _BUDGET // length // many
        calls = [_requests(_key(size), length, many, seed) for seed in range(2 * in_flight)]
        for _ in range(self._rounds):
            rate, p99_s = await _rate_of(submit, calls, in_flight, self._seconds)
            self.notes.add(name, "texts/s", rate)
            self.notes.add(name, "p99 ms", 1000 * p99_s)

    def behind_http(self, workers: int) -> None:
        """Measure a server's process, or processes."""
        port, metrics_port = free_ports(2)
        command = [sys.executable, "-m", "gateway", "serve", "--device", "cuda", "--port", str(port)]
        command += ["--metrics-port", str(metrics_port), "--drain-delay", "0", "--http-workers", str(workers)]
        command += ["--latency-target-ms", str(_TARGET_MS)]
        for size, path in self._paths.items():
            command += ["--model", f"{_key(size)}={path}"]
        started, cores = time.perf_counter(), os.sched_getaffinity(0)
        with running(cores, command, environment=dict(os.environ), port=port, ready="/readyz"):
            took_s = time.perf_counter() - started
            self.notes.add(f"all three, {workers} HTTP workers: exec to ready", "s", took_s)
            for size, length, many in itertools.product(SIZES, LENGTHS[1:], (1, _MANY)):
                name = f"{size.name}, {length} tokens, {workers} HTTP workers, {many} a call"
                for _ in range(self._rounds):
                    self._ask(name, port, size, length, many)
                self._compare(name, size, length, 0.85)

    def _ask(self, name: str, port: int, size: Size, length: int, many: int) -> None:
        in_flight = min(_MOST_CALLS, max(2, 4 * _BUDGET // length // many // _PROCESSES))
        load = Load(port, _key(size), length, many, _PROCESSES, in_flight)
        rate, p99_s, joules = load.run(self._seconds, _joules)
        self.notes.add(name, "texts/s", rate)
        self.notes.add(name, "p99 ms", 1000 * p99_s)
        self.notes.add(name, "J per 1000 texts", 1000 * joules / (rate * self._seconds))

    def _compare(self, name: str, size: Size, length: int, goal: float) -> None:
        share = self.notes.median(name, "texts/s") / self._offline[size, length]
        self.goals.append(Goal(f"{name} / offline", share, goal))


def _batcher(loaded: LoadedModel, limits: Limits, in_flight: int) -> Batcher:
    """Start a batcher around one model."""
    limits = replace(limits, max_batch_tokens=_BUDGET)
    key = loaded.served.key
    batcher = Batcher(
        Scheduler(limits, {key: loaded.lane}),
        {name: {key: encoder} for name, encoder in loaded.encoders.items()},
        limits,
        clock=time.monotonic,
        observer=lambda event: None,
        in_flight=in_flight,
    )
    batcher.start()
    return batcher


async def _rate_of(
    submit: Submit, calls: Sequence[Sequence[Request]], in_flight: int, seconds: float
) -> tuple[float, float]:
    """Keep so many calls in flight; returns texts a second and the 99th percentile of a call's seconds."""
    done, took, source = 0, list[float](), itertools.cycle(calls)
    until = time.monotonic() + seconds + _LEAD_IN_S

    async def caller() -> None:
        nonlocal done
        while (started := time.monotonic()) < until:
            requests = next(source)
            await submit(Call(requests, started + 60))
            if until - seconds <= (ended := time.monotonic()) < until:
                done += len(requests)
                took.append(ended - started)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return done / seconds, percentile_99(took)


def _http_workers() -> int:
    """As many as leave cores to the engine's threads and to the callers."""
    return max(1, len(os.sched_getaffinity(0)) - _PROCESSES - 3)


# The machine.


@contextmanager
def _saved(size: Size) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield save_bert(Path(folder), size)


def _joules() -> float:
    pynvml.nvmlInit()  # counts those before, and costs nothing then
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0))) / 1000


def _key(size: Size) -> str:
    return size.name.lower().replace(" ", "-")


def _kind() -> str:
    return torch.cuda.get_device_name(0).replace(" ", "-")


def _conditions(rounds: int, seconds: float) -> dict[str, object]:
    return {
        "models": "random BERTs, float16: " + ", ".join(f"{s.name} {s.layers} x {s.width}" for s in SIZES),
        "GPU": torch.cuda.get_device_name(0),
        "CUDA": torch.version.cuda,
        "rounds": rounds,
        "seconds a measurement": seconds,
        "budget": f"{_BUDGET} tokens a batch",
        "latency target": f"{_TARGET_MS} ms",
        "callers": f"{_PROCESSES} processes on the same {len(os.sched_getaffinity(0))} cores, base64 answers",
        "tokenizer": "one token a word (WordLevel): cheaper than a real one",
    }
