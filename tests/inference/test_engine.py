import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from inference import CannotServe, DeviceConfig, Engine, EngineConfig, Limits, ModelSource, Progress
from inference.request import Call, Dispatched, Report, Request, packed_shape
from inference.scheduler import Work

pytestmark = pytest.mark.anyio

CPU = DeviceConfig(device="cpu")


def config(*paths: Path, **options: object) -> EngineConfig:
    models = tuple(ModelSource(path.name, str(path)) for path in paths)
    return EngineConfig(models=models, device=CPU, **options)  # type: ignore[arg-type]


def one(model: str, *lengths: int) -> Call:
    requests = [Request(model, np.full(length, 9, np.int32)) for length in lengths]
    return Call(requests, time.monotonic() + 60)


async def test_several_models_are_served_side_by_side(tiny_paths: dict[str, Path]) -> None:
    events: list[Dispatched | Report] = []
    engine = Engine(config(tiny_paths["bert"], tiny_paths["mpnet"]), observer=events.append)
    await asyncio.to_thread(engine.load)
    engine.start()

    answers = await asyncio.gather(*(engine.submit(one(name, 5, 60)) for name in ("bert", "mpnet")))
    await engine.drained()
    await asyncio.to_thread(engine.close)

    assert [len(answer) for answer in answers] == [2, 2]
    assert {event.model for event in events} == {"bert", "mpnet"}
    assert [engine.models[name].packed for name in ("bert", "mpnet")] == [True, False]


async def test_warm_up_teaches_the_cost_before_the_first_call(tiny_paths: dict[str, Path]) -> None:
    steps: list[Progress] = []
    engine = Engine(config(tiny_paths["bert"]), progress=steps.append)

    await asyncio.to_thread(engine.load)

    assert {step.stage for step in steps} == {"load", "warm up"}
    assert (steps[-1].stage, steps[-1].done) == ("warm up", steps[-1].total)
    assert engine.refusal(Work("bert", packed_shape([10]), time.monotonic() + 60)) is None
    assert engine.models["bert"].warm_up_s > 0


async def test_a_text_of_the_maximum_over_the_budget_still_runs(tiny_paths: dict[str, Path]) -> None:
    engine = Engine(config(tiny_paths["bert"], limits=Limits(max_batch_tokens=32)))
    await asyncio.to_thread(engine.load)
    engine.start()

    answer = await engine.submit(one("bert", engine.models["bert"].max_length))
    await asyncio.to_thread(engine.close)

    assert np.linalg.norm(answer[0].row) == pytest.approx(1.0, abs=1e-5)


def test_before_the_load_there_are_no_statistics_and_closing_is_fine() -> None:
    engine = Engine(EngineConfig())

    engine.close()

    assert engine.statistics() is None
    assert engine.abandon() == 0


def test_a_device_that_is_not_there_is_one_clear_error() -> None:
    engine = Engine(EngineConfig(device=DeviceConfig(device="cuda:99")))

    with pytest.raises(CannotServe, match="cuda:99"):
        engine.load()
