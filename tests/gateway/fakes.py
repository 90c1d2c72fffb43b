"""An engine that computes nothing, behind the real client, and the gateway around it."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import httpx2
import numpy as np
from fastapi import FastAPI
from prometheus_client import generate_latest
from starlette.types import ASGIApp
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from gateway import server
from gateway.app import create_app
from gateway.config import Settings
from gateway.lifecycle import Lifecycle
from gateway.rpc import Rpc
from gateway.telemetry import Metrics
from gateway.tls import server_context
from inference import (
    CannotServe,
    Client,
    DeviceLost,
    Dispatched,
    EngineConfig,
    Limits,
    Report,
    ServedModel,
    TokenizerFile,
    Unavailable,
)
from inference.batcher import Batcher, BatcherStatistics
from inference.cost import CostModel
from inference.lane import Lane
from inference.request import Batch, Call, Output, Result, Row, RowFailed
from inference.scheduler import Refused, Scheduler, Work
from inference.task import Task, abilities

MODEL = "tiny"
HIDDEN = 384
VOCABULARY = 120
MAX_LENGTH = 16  # tokens, [CLS] and [SEP] included
MASK = VOCABULARY - 1
DEADLY, LOST = 13, 11  # the tokens of w9 and w7, in the engine's own process


LABELS: Mapping[Task, tuple[str, ...]] = {
    "rerank": ("LABEL_0",),
    "classify": ("contradiction", "neutral", "entailment"),
    "token-classify": ("O", "B-PER", "I-PER"),
}


def tokenizer_json() -> str:
    """Words `w0` to `w114`, each one token, between [CLS] and [SEP]; the last id is [MASK]."""
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(VOCABULARY - 5)), "[MASK]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[MASK]"])
    return tokenizer.to_str()


def served(name: str = MODEL, task: Task = "embed", *, normalised: bool = True) -> ServedModel:
    """A model that is ready."""
    labels = LABELS.get(task, ())
    return ServedModel(
        name=name,
        task=task,
        abilities=abilities(task, labels),
        revision=None,
        dtype="float32",
        device="cpu",
        packed=True,
        hidden_size=HIDDEN,
        vocab_size=VOCABULARY,
        max_length=MAX_LENGTH,
        normalised=normalised,
        tokenizer=TokenizerFile(tokenizer_json(), MAX_LENGTH, unknown="[UNK]", mask="[MASK]"),
        load_s=1.5,
        warm_up_s=2.5,
        labels=labels,
        problem_type="multi_label_classification" if task == "rerank" else "single_label_classification",
        prompts={"query": "w7 "} if task == "embed" else {},
    )


def numbers(ids: Sequence[int], width: int) -> Row:
    """What the fake device makes of these token ids: others for other ids."""
    return np.random.default_rng([len(ids), *ids]).standard_normal(width).astype(np.float32)


def vector(ids: Sequence[int]) -> Row:
    """An embedding: normalised."""
    row = numbers(ids, HIDDEN)
    return row / np.linalg.norm(row)


def row(ids: Sequence[int], output: Output, labels: int, length: float = 1.0) -> Row:
    """The answer to a request for these token ids, by what it asks for."""
    masks = [place for place, id_ in enumerate(ids) if id_ == MASK]
    answers: dict[Output, Callable[[], Row]] = {
        "vector": lambda: vector(ids) * np.float32(length),
        "raw vector": lambda: vector(ids) * np.float32(3),
        "token vectors": lambda: np.stack([numbers([id_], HIDDEN) for id_ in ids]),
        "logits": lambda: numbers(ids, labels),
        "token logits": lambda: np.stack([numbers([id_], labels) for id_ in ids]),
        "mask logits": lambda: np.stack([numbers([place, *ids], VOCABULARY) for place in masks]),
        "term weights": lambda: np.maximum(numbers(ids, VOCABULARY) - 1, 0),
    }
    return answers[output]()


class FakeDevice:
    """A runtime: one row a sequence, once its gate is open; `fail` is raised instead, `bad` rows have failed."""

    def __init__(self, tasks: Mapping[str, Task], length: float = 1.0) -> None:
        self.tasks = tasks
        self.length = length  # of vectors
        self.batches: list[Batch] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fail: BaseException | None = None
        self.bad = False

    def launch(self, batch: Batch) -> "FakeDevice.Launched":
        self.batches.append(batch)
        self.entered.set()
        assert self.gate.wait(30), "nobody opened the gate"
        if self.fail is not None:
            raise self.fail
        labels = len(LABELS.get(self.tasks[batch.model], ()))
        return FakeDevice.Launched(batch, labels, self.length, bad=self.bad)

    def row(self, ids: Sequence[int], output: Output) -> Row:
        """What it makes of these token ids for the only model."""
        (task,) = self.tasks.values()
        return row(ids, output, len(LABELS.get(task, ())), self.length)

    class Launched:
        busy_s: float | None = None

        def __init__(self, batch: Batch, labels: int, length: float, *, bad: bool) -> None:
            self._batch = batch
            self._labels = labels
            self._length = length
            self._bad = bad

        def wait(self) -> Sequence[Row | RowFailed]:
            if self._bad:
                return [RowFailed("secret: row 0 is not finite") for _ in self._batch.entries]
            requests = [entry.request for entry in self._batch.entries]
            return [row(each.tokens.tolist(), each.output, self._labels, self._length) for each in requests]


class FakeEngine:
    """The real batcher before a fake device. Remembers what was submitted; `refuse` and `error` answer instead."""

    def __init__(
        self,
        names: Sequence[str] | Mapping[str, Task] = (MODEL,),
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        normalised: bool = True,
    ) -> None:
        self.models: Mapping[str, ServedModel] = {}
        self.config = EngineConfig()
        self._names: Mapping[str, Task] = names if isinstance(names, Mapping) else dict.fromkeys(names, "embed")
        self._normalised = normalised
        self.device = FakeDevice(self._names, 1.0 if normalised else 3.0)
        self.limits = limits or Limits(max_batch_tokens=64)
        self.submitted: list[Call] = []
        self.cancelled = 0
        self.refuse: Refused | None = None
        self.error: BaseException | None = None
        self.cannot_serve: CannotServe | None = None
        self.loading = threading.Event()  # set: `load` may end
        self.loading.set()
        self.started = asyncio.Event()
        self._changed = asyncio.Condition()
        self.observer: Callable[[Dispatched | Report], None] = lambda event: None
        self.clock = clock
        self._batcher: Batcher | None = None

    def load(self) -> None:
        assert self.loading.wait(30), "nobody let the load end"
        if self.cannot_serve is not None:
            raise self.cannot_serve
        scheduler = Scheduler(self.limits, {name: Lane(True, CostModel()) for name in self._names})
        devices = {"cpu": dict.fromkeys(self._names, self.device)}
        self._batcher = Batcher(scheduler, devices, self.limits, clock=self.clock, observer=self.observer)
        self.models = {name: served(name, task, normalised=self._normalised) for name, task in self._names.items()}

    def start(self) -> None:
        self._running().start()
        self.started.set()

    async def submit(self, call: Call) -> Sequence[Result]:
        self.submitted.append(call)
        await self._tell()
        if self.error is not None:
            raise self.error
        try:
            return await self._running().submit(call)
        except asyncio.CancelledError:
            self.cancelled += 1
            await self._tell()
            raise

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on `submitted` or `cancelled` holds."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def refusal(self, work: Work) -> Refused | None:
        return self.refuse

    @property
    def healthy(self) -> bool:
        return self._batcher is None or self._batcher.healthy

    async def lost(self) -> None:
        await self._running().lost()

    def statistics(self) -> BatcherStatistics | None:
        return None if self._batcher is None else self._batcher.statistics()

    async def drained(self) -> None:
        if self._batcher is not None:
            await self._batcher.drained()

    def abandon(self) -> int:
        return 0 if self._batcher is None else self._batcher.abandon(Unavailable("shutting down"))

    def close(self) -> None:
        if self._batcher is not None:
            self._batcher.close()
            self._batcher.join(5)

    def _running(self) -> Batcher:
        assert self._batcher is not None
        return self._batcher


@dataclass(frozen=True)
class Gateway:
    """All the HTTP parts around a fake engine."""

    engine: FakeEngine
    settings: Settings
    client: Client
    metrics: Metrics
    lifecycle: Lifecycle
    app: FastAPI
    http: httpx2.AsyncClient

    def metric(self, name: str, **labels: str) -> float:
        """One sample, 0 when it was never moved."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def exposition(self) -> str:
        """What a scrape would read."""
        return generate_latest(self.metrics.registry).decode()

    async def embed(self, body: object, **headers: str) -> httpx2.Response:
        """POST /v1/embeddings."""
        return await self.http.post("/v1/embeddings", json=body, headers=headers)

    async def post(self, path: str, **body: object) -> httpx2.Response:
        """POST a JSON object."""
        return await self.http.post(path, json=body)


Traced = Callable[[ASGIApp], ASGIApp]


def gateway(
    engine: FakeEngine | None = None, settings: Settings | None = None, traced: Traced | None = None
) -> Gateway:
    """Join the parts as `headrace serve` does; nothing is started."""
    engine, settings = engine or FakeEngine(), settings or Settings()
    metrics = Metrics(settings.engine.limits.latency_target_s)
    engine.observer = metrics.engine_event
    client = Client(engine, engine.limits, auto_truncate=settings.engine.auto_truncate, clock=engine.clock)
    lifecycle = Lifecycle(client, metrics)
    app = create_app(settings, client, lifecycle, metrics, traced=traced)
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway")
    return Gateway(engine, settings, client, metrics, lifecycle, app, http)


@asynccontextmanager
async def ready(
    engine: FakeEngine | None = None, settings: Settings | None = None, traced: Traced | None = None
) -> AsyncIterator[Gateway]:
    """A gateway that has started, without a socket."""
    subject = gateway(engine, settings, traced)
    await subject.lifecycle.start()
    try:
        async with subject.http:
            yield subject
    finally:
        subject.engine.device.gate.set()
        subject.lifecycle.abandon()
        await subject.lifecycle.stop()


@asynccontextmanager
async def serving(
    engine: FakeEngine | None = None, settings: Settings | None = None
) -> AsyncIterator[tuple["Address", "asyncio.Task[int]"]]:
    """A gateway on a real socket, and the task that ends with its exit code after a signal."""
    subject = gateway(engine, settings)
    listener = server.bind("127.0.0.1", 0)
    address = Address(subject, listener.getsockname()[1])
    http, drain = subject.settings.http, subject.settings.drain
    tls = server_context(subject.settings.tls)
    rpc = Rpc(subject.app, http, subject.settings.deadlines) if http.grpc_port is not None else None
    if rpc is not None:
        address = replace(address, grpc_port=await rpc.start())
    serve = server.run(
        subject.app, listener, http, drain, subject.lifecycle, tls=tls, rpc=rpc, on_cut=subject.metrics.cut
    )
    run = asyncio.create_task(serve)
    await subject.engine.started.wait()
    try:
        yield address, run
    finally:
        subject.engine.device.gate.set()
        if subject.lifecycle.state == "ready":
            os.kill(os.getpid(), signal.SIGTERM)  # a second one would end pytest
        await run


@asynccontextmanager
async def listening(engine: FakeEngine | None = None, settings: Settings | None = None) -> AsyncIterator["Address"]:
    """A gateway on a real socket, stopped by the signal that an orchestrator sends."""
    settings = settings or Settings()
    settings = replace(settings, drain=replace(settings.drain, drain_delay_s=0.0))
    async with serving(engine, settings) as (address, _):
        yield address


@dataclass(frozen=True)
class Address:
    """Where a gateway listens."""

    gateway: Gateway
    port: int
    grpc_port: int = 0

    async def connect(self, source: str = "127.0.0.1") -> "Connection":
        """Open a connection, from an address of this machine."""
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0)))

    async def answer(self, raw: bytes) -> bytes:
        """Send bytes, say that no more will come, and return all that comes back."""
        connection = await self.connect()
        connection.writer.write(raw)
        try:
            return await connection.reader.read()
        finally:
            connection.close()


@dataclass(frozen=True)
class Connection:
    """A caller's end of a socket."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(raw)

    async def response(self) -> tuple[int, bytes]:
        """Read one response: status and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return int(head.split(b" ", 2)[1]), await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Read until the other side closes."""
        return await self.reader.read()

    def close(self) -> None:
        """Close, as a caller that has gone does."""
        self.writer.close()


def post(body: bytes, *lines: str, close: bool = False) -> bytes:
    """A whole POST /v1/embeddings as bytes."""
    head = ["POST /v1/embeddings HTTP/1.1", "Host: x", "Content-Type: application/json", *lines]
    head += [f"Content-Length: {len(body)}"] if not any("transfer" in line.lower() for line in lines) else []
    head += ["Connection: close"] * close
    return "\r\n".join([*head, "", ""]).encode() + body


def engine_of_its_own(
    config: EngineConfig, *, observer: Callable[[Dispatched | Report], None], **_: object
) -> FakeEngine:
    """The fake engine as the engine's process makes it; `w9` ends that process, and `w7` loses the device."""
    engine = FakeEngine(limits=replace(config.limits, max_batch_tokens=64))
    engine.observer = observer
    launch = engine.device.launch

    def launch_or_die(batch: Batch) -> "FakeDevice.Launched":
        words = {int(token) for entry in batch.entries for token in entry.request.tokens}
        if DEADLY in words:
            os._exit(9)
        if LOST in words:
            raise DeviceLost("gone")
        return launch(batch)

    engine.device.launch = launch_or_die  # type: ignore[method-assign]
    return engine
