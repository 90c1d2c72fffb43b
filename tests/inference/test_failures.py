"""Each failure a hundred times, under load: no innocent call fails, hangs or is answered twice."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.batcher import Batcher
from inference.checkpoint import read_checkpoint
from inference.config import Limits
from inference.cost import CostModel
from inference.device import Device, model_edge
from inference.encoder import load_encoder
from inference.errors import DeadlineExceeded, InferenceError
from inference.lane import Lane
from inference.request import Batch, Entry, Request, Row, RowFailed, packed_shape
from inference.runtime import Runtime
from inference.scheduler import Scheduler
from tests.fakes import EchoRuntime, Faulty, GatedRuntime, Launch, Outcomes, Recorded, call, request
from tests.tiny import VOCABULARY

pytestmark = pytest.mark.anyio

TIMES = 100
INNOCENTS = 8 * TIMES
GUILTY = 13  # a token that no innocent input has
PADDING = 1  # nor this one
FITS = 100  # tokens
CPU = Device(torch.device("cpu"))
LIMITS = Limits(max_batch_tokens=200, latency_target_s=20.0)
DEATH = "ignore::pytest.PytestUnhandledThreadExceptionWarning"  # the device thread is meant to die


@dataclass(frozen=True)
class Model:
    """What computes, what it is asked, and what it should answer."""

    runtime: Runtime
    innocents: Sequence[Request]
    answers: Sequence[Row]
    guilty: Callable[[], Request]


def echo() -> Model:
    innocents = [request(8, first=1000 + number) for number in range(INNOCENTS)]
    answers = [item.tokens[:1].astype(np.float32) for item in innocents]
    return Model(EchoRuntime(), innocents, answers, lambda: request(8, first=GUILTY))


@pytest.fixture(scope="module")
def encoder(tiny_paths: dict[str, Path]) -> Model:
    """A real encoder, packed."""
    runtime = load_encoder(read_checkpoint("m", tiny_paths["bert"]), CPU, torch.float32)
    assert runtime.packed
    chance = np.random.default_rng(0)
    lengths = chance.integers(3, 20, INNOCENTS)
    innocents = [Request("m", chance.integers(GUILTY + 1, VOCABULARY, n).astype(np.int32)) for n in lengths]
    answers = [row for item in innocents for row in runtime.launch(alone(item)).wait()]
    return Model(runtime, innocents, answers, lambda: guilty_words(chance))


@pytest.fixture(scope="module")
def spoilt(encoder: Model, tiny_paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same, but what it makes of a padding token, which no self-test asks about, is not a number."""
    path = shutil.copytree(tiny_paths["bert"], tmp_path_factory.mktemp("tiny") / "spoilt")
    weights = load_file(path / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][PADDING] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    runtime = load_encoder(read_checkpoint("m", path), CPU, torch.float32)
    assert runtime.packed
    return replace(encoder, runtime=runtime)


def guilty_words(chance: np.random.Generator) -> Request:
    return Request("m", np.array([GUILTY, *chance.integers(GUILTY + 1, VOCABULARY, 7)], np.int32))


def alone(item: Request) -> Batch:
    owner = call(item)
    return Batch("m", (Entry(item, owner, Recorded(), 0.0),), packed_shape([len(item.tokens)]), 0.0)


@pytest.fixture(params=["echo", "encoder"])
def model(request: pytest.FixtureRequest) -> Model:
    return echo() if request.param == "echo" else request.getfixturevalue("encoder")


@asynccontextmanager
async def serving(runtime: Runtime, limits: Limits = LIMITS) -> AsyncIterator[Batcher]:
    scheduler = Scheduler(limits, {"m": Lane(packed=True, cost=CostModel())})
    batcher = Batcher(scheduler, {"cpu": {"m": runtime}}, limits, clock=time.monotonic, observer=lambda event: None)
    batcher.start()
    try:
        yield batcher
    finally:
        batcher.close()
        await asyncio.to_thread(batcher.join, 10.0)


@dataclass
class Told:
    """What became of the calls of either side."""

    guilty: Counter[str] = field(default_factory=Counter)
    innocent: Counter[str] = field(default_factory=Counter)


async def answered(batcher: Batcher, item: Request, expected: Row | None = None, caller: str = "") -> str:
    """Submit one input, and return what its caller is told in a word."""
    try:
        (result,) = await batcher.submit(call(item, deadline=time.monotonic() + 60, caller=caller))
    except InferenceError as error:
        return type(error).__name__
    return "right" if expected is None or np.abs(result.row - expected).max() <= 1e-5 else "wrong"


async def under_load(batcher: Batcher, model: Model, misbehave: Callable[[int], Awaitable[str]]) -> Told:
    """Misbehave a hundred times among eight times as many innocents, 32 at once."""
    told, room = Told(), asyncio.Semaphore(32)

    async def one(number: int) -> None:
        async with room:
            if number % 9 == 0:
                told.guilty[await misbehave(number)] += 1
            else:
                index = number - number // 9 - 1
                told.innocent[await answered(batcher, model.innocents[index], model.answers[index])] += 1

    await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(9 * TIMES))), 60)
    return told


def is_guilty(entry: Entry) -> bool:
    return bool(GUILTY in entry.request.tokens)


def poison(batch: Batch, launch: Launch) -> Outcomes:
    with model_edge():
        if any(map(is_guilty, batch.entries)):
            raise ZeroDivisionError("a kernel that fails")
        return launch(batch)


def too_large(batch: Batch, launch: Launch) -> Outcomes:
    with model_edge():
        if batch.tokens > FITS or any(map(is_guilty, batch.entries)):
            raise torch.OutOfMemoryError("does not fit")
        return launch(batch)


def not_finite(batch: Batch, launch: Launch) -> Outcomes:
    return [
        RowFailed("not finite") if is_guilty(entry) else row
        for entry, row in zip(batch.entries, launch(batch), strict=True)
    ]


def nothing(batch: Batch, launch: Launch) -> Outcomes:
    return launch(batch)


@pytest.mark.parametrize(
    ("fault", "told"), [(poison, "RuntimeFailed"), (too_large, "OutOfMemory"), (not_finite, "RuntimeFailed")]
)
async def test_only_the_guilty_fail(model: Model, fault: Callable[[Batch, Launch], Outcomes], told: str) -> None:
    runtime = Faulty(model.runtime, fault)
    async with serving(runtime) as batcher:
        became = await under_load(batcher, model, lambda number: answered(batcher, model.guilty()))

    assert became == Told(Counter({told: TIMES}), Counter({"right": INNOCENTS}))
    assert {reply.times for reply in runtime.replies.values()} == {1}


@pytest.mark.parametrize(
    ("name", "token"), [("encoder", VOCABULARY + 7), ("spoilt", PADDING)], ids=["raises", "is not finite"]
)
async def test_only_the_guilty_fail_when_it_is_the_model_itself_that(
    request: pytest.FixtureRequest, name: str, token: int
) -> None:
    model = request.getfixturevalue(name)
    runtime, bad = Faulty(model.runtime, nothing), Request("m", np.array([20, token, 30], np.int32))
    async with serving(runtime) as batcher:
        became = await under_load(batcher, model, lambda number: answered(batcher, bad, caller=str(number)))

    assert became == Told(Counter({"RuntimeFailed": TIMES}), Counter({"right": INNOCENTS}))
    assert {reply.times for reply in runtime.replies.values()} == {1}


async def test_one_poison_sent_again_and_again_costs_the_device_little(model: Model) -> None:
    runtime, item = Faulty(model.runtime, poison), model.guilty()
    async with serving(runtime) as batcher:
        became = await under_load(batcher, model, lambda number: answered(batcher, item))

    assert became == Told(Counter({"RuntimeFailed": TIMES}), Counter({"right": INNOCENTS}))
    assert sum(1 for batch in runtime.batches if [entry.request for entry in batch.entries] == [item]) <= 4


async def test_memory_that_runs_out_is_learned_so_that_few_batches_run_out_again(model: Model) -> None:
    runtime = Faulty(model.runtime, too_large)
    async with serving(runtime) as batcher:
        became = await under_load(batcher, model, lambda number: answered(batcher, request_of_words(number)))

    out = [batch for batch in runtime.batches if batch.tokens > FITS]
    assert became == Told(Counter({"right": TIMES}), Counter({"right": INNOCENTS}))
    assert 1 <= len(out) <= len(runtime.batches) / 10


def request_of_words(number: int) -> Request:
    return Request("m", np.array([20, 30 + number % 80, 20 + number // 80], np.int32))


async def test_callers_that_go_take_nobody_with_them(model: Model) -> None:
    chance = np.random.default_rng(0)
    runtime = Faulty(model.runtime, nothing)
    async with serving(runtime) as batcher:

        async def leave(number: int) -> str:
            task = asyncio.ensure_future(answered(batcher, model.guilty()))
            for _ in range(int(chance.integers(1, 6))):  # sooner or later: before, within or after its batch
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            return "gone" if task.cancelled() else "answered"

        became = await under_load(batcher, model, leave)

        assert became.innocent == Counter({"right": INNOCENTS})
        assert became.guilty["gone"] > 0
        assert became.guilty.total() == TIMES
        assert batcher.statistics().in_flight == 0
        assert batcher.statistics().scheduler.lanes[0].entries == 0


async def test_all_of_it_at_once_harms_no_innocent(model: Model) -> None:
    def fault(batch: Batch, launch: Launch) -> Outcomes:
        tokens = {int(entry.request.tokens[-1]) % 3 for entry in batch.entries if is_guilty(entry)}
        if 0 in tokens:
            return poison(batch, launch)
        return not_finite(batch, lambda batch: too_large(batch, launch) if 1 in tokens else launch(batch))

    runtime = Faulty(model.runtime, fault)
    async with serving(runtime) as batcher:

        async def misbehave(number: int) -> str:
            task = asyncio.ensure_future(answered(batcher, model.guilty()))
            if number % 2:
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            return "gone" if task.cancelled() else task.result()

        became = await under_load(batcher, model, misbehave)

    assert became.innocent == Counter({"right": INNOCENTS})
    assert became.guilty.keys() <= {"gone", "RuntimeFailed", "OutOfMemory"}
    assert max(reply.times for reply in runtime.replies.values()) == 1


def dies_of_a_bug(batch: Batch, launch: Launch) -> Outcomes:
    raise ValueError("a bug of ours")


def loses_its_device(batch: Batch, launch: Launch) -> Outcomes:
    with model_edge():
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")


@pytest.mark.filterwarnings(DEATH)
@pytest.mark.parametrize("fault", [dies_of_a_bug, loses_its_device])
async def test_a_lost_device_answers_everybody_at_once_every_time(
    model: Model, fault: Callable[[Batch, Launch], Outcomes]
) -> None:
    for turn in range(TIMES):
        runtime = Faulty(
            model.runtime,
            lambda batch, launch: (fault if any(map(is_guilty, batch.entries)) else nothing)(batch, launch),
        )
        async with serving(runtime) as batcher:
            first = [answered(batcher, model.innocents[8 * turn + i], model.answers[8 * turn + i]) for i in range(4)]
            before = await asyncio.wait_for(asyncio.gather(*first), 5)
            rest = [answered(batcher, item) for item in (model.guilty(), *model.innocents[:4])]
            after = await asyncio.wait_for(asyncio.gather(*rest), 5)
            later = await asyncio.wait_for(answered(batcher, model.innocents[0]), 5)

            assert not batcher.healthy
            await asyncio.wait_for(batcher.lost(), 5)
        assert before == ["right"] * 4
        assert (set(after), later) == ({"DeviceLost"}, "DeviceLost")
        assert max(reply.times for reply in runtime.replies.values()) == 1


async def test_a_stuck_device_is_lost_and_answers_everybody_at_once_every_time() -> None:
    for _ in range(TIMES):
        gated = GatedRuntime()
        runtime = Faulty(gated, nothing)
        async with serving(runtime, replace(LIMITS, stuck_after_s=0.01)) as batcher:
            calls = [answered(batcher, request()) for _ in range(8)]
            outcomes = await asyncio.wait_for(asyncio.gather(*calls), 5)
            gated.gate.set()

            assert not batcher.healthy
        assert set(outcomes) == {"DeviceLost"}
        assert max(reply.times for reply in runtime.replies.values()) <= 1


async def test_callers_of_a_stuck_device_end_at_their_deadlines_every_time() -> None:
    runtime = GatedRuntime()
    async with serving(runtime) as batcher:
        stuck = asyncio.ensure_future(batcher.submit(call(deadline=time.monotonic() + 60)))
        await asyncio.to_thread(runtime.entered.wait, 10)

        tasks = [asyncio.ensure_future(batcher.submit(call(deadline=time.monotonic() + 0.05))) for _ in range(TIMES)]
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        runtime.gate.set()
        answer = await stuck

    assert {type(outcome) for outcome in outcomes} == {DeadlineExceeded}
    assert len(answer) == 1
    assert len(runtime.batches) == 1
