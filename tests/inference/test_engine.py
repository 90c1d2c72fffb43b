import asyncio
import gc
import shutil
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BertModel

from inference import (
    CannotServe,
    ControlConfig,
    DeviceConfig,
    Engine,
    EngineConfig,
    ForModel,
    Limits,
    ModelSource,
    Progress,
    Task,
)
from inference.golden import record, write_golden
from inference.judge import question
from inference.request import Call, Dispatched, Report, Request, packed_shape
from inference.scheduler import Work
from inference.tokenizer import TextTokenizer
from tests.architectures import build

pytestmark = pytest.mark.anyio

CPU = DeviceConfig(("cpu",))


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
    engine = Engine(EngineConfig(device=DeviceConfig(("cuda:99",))))

    with pytest.raises(CannotServe, match="cuda:99"):
        engine.load()


def with_golden(path: Path, file: Path) -> EngineConfig:
    return replace(config(path), goldens=(ForModel(None, file),))


def recorded(path: Path, file: Path, *, task: Task = "embed") -> Path:
    """Write what this model says now."""
    engine = Engine(config(path))
    engine.load()
    inputs = ["w1 w2 w3", ("w4 w5", "w6")]
    write_golden(record(path.name, None, task, inputs, engine.answers(path.name, inputs)), file)
    return file


def changed(path: Path, place: Path) -> Path:
    """The same model with other weights."""
    other = Path(shutil.copytree(path, place))
    weights = load_file(other / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"] *= 1.2
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    return other


def test_a_model_that_gives_its_golden_answers_is_served(tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    file = recorded(tiny_paths["bert"], tmp_path / "golden.json")
    engine = Engine(with_golden(tiny_paths["bert"], file))

    engine.load()

    assert list(engine.models) == ["bert"]


def test_a_revision_whose_answers_drift_is_not_served(tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    file = recorded(tiny_paths["bert"], tmp_path / "golden.json")
    other = changed(tiny_paths["bert"], tmp_path / "bert")
    engine = Engine(with_golden(other, file))

    with pytest.raises(CannotServe, match=r"model bert: .* case [12]: cosine 0\.\d+, at least 0\.9999"):
        engine.load()

    assert engine.models == {}


def test_golden_answers_of_another_task_are_refused_with_the_model(tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    file = recorded(tiny_paths["bert"], tmp_path / "golden.json", task="sparse")

    with pytest.raises(CannotServe, match="model bert: its golden answers are for the task sparse"):
        Engine(with_golden(tiny_paths["bert"], file)).load()


def test_a_golden_file_that_is_not_there_is_told_before_anything_is_loaded(
    tiny_paths: dict[str, Path], tmp_path: Path
) -> None:
    steps: list[Progress] = []

    with pytest.raises(CannotServe, match="cannot be read"):
        Engine(with_golden(tiny_paths["bert"], tmp_path / "none.json"), progress=steps.append).load()

    assert steps == []


def test_a_case_that_a_model_cannot_read_is_named(tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    engine = Engine(config(tiny_paths["bert"], build("bert", "MaskedLM", tmp_path)))
    engine.load()

    with pytest.raises(CannotServe, match="case 2 has 202 tokens, and it reads 1 to 130"):
        engine.answers("bert", ["w1", "w1 " * 200])
    with pytest.raises(CannotServe, match="case 1 asks for nothing: it holds no mask"):
        engine.answers("bert-MaskedLM", ["water"])


def test_a_judge_is_asked_as_callers_ask_it(tmp_path: Path) -> None:
    path = build("qwen3", "CausalLM", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.save_pretrained(path)
    weights = AutoModelForCausalLM.from_pretrained(path)
    weights.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    weights.save_pretrained(path)
    engine = Engine(replace(config(path), tasks=(ForModel(None, "rerank"),)))
    engine.load()
    model = engine.models["qwen3-CausalLM"]
    tokens = TextTokenizer(model.tokenizer, model.max_length).encode([question("a", "b")])[0].ids

    with pytest.raises(CannotServe, match=f"case 1 has {len(tokens)} tokens, and it reads 1 to {model.max_length}"):
        engine.answers(model.name, [("a", "b")])


def test_a_loaded_model_is_inspected(tiny_paths: dict[str, Path]) -> None:
    engine = Engine(config(tiny_paths["bert"], tiny_paths["mpnet"]))
    engine.load()

    packed, padded = engine.inspect("bert"), engine.inspect("mpnet")

    parameters = sum(weight.numel() for weight in load_file(tiny_paths["bert"] / "model.safetensors").values())
    assert (packed.packed, packed.padded_because) == (True, None)
    assert not padded.packed
    assert padded.padded_because == "its attention ignores the interface"
    assert (packed.dtype, packed.device, packed.hidden_size, packed.max_length) == ("float32", "cpu", 64, 130)
    assert packed.load_s > 0 and packed.warm_up_s > 0
    assert packed.weight_bytes >= 4 * parameters
    assert packed.process_bytes is None or packed.process_bytes > packed.weight_bytes
    assert packed.bytes_per_token > 4 * (64 + 96)  # at the least a hidden state and what the feed-forward makes of it


def bert_models() -> weakref.WeakSet[BertModel]:
    return weakref.WeakSet(each for each in gc.get_objects() if type(each) is BertModel)


async def test_a_model_is_replaced_by_one_that_answers_otherwise_and_its_weights_are_gone(
    tiny_paths: dict[str, Path], tmp_path: Path
) -> None:
    other = changed(tiny_paths["bert"], tmp_path / "bert")
    strangers = bert_models()  # of tests before, where a garbage collection has not come yet
    engine = Engine(config(tiny_paths["bert"]))
    await asyncio.to_thread(engine.load)
    engine.start()
    before = (await engine.submit(one("bert", 9)))[0].row
    weights = bert_models() - strangers
    assert len(weights) == 1

    checkpoint = await asyncio.to_thread(engine.open, "bert", ModelSource("bert", str(other)))
    loaded = await asyncio.to_thread(engine.prepare, checkpoint, 2)
    engine.add(loaded)
    await engine.retire("bert")
    after = (await engine.submit(one("bert@2", 9)))[0].row
    await asyncio.to_thread(engine.close)

    assert float(before @ after) < 0.9999
    assert engine.models["bert"].version == 2
    assert engine.held_bytes("bert@2") > 0
    assert not weights  # without a garbage collection, which stops all threads


async def test_a_version_that_drifts_from_the_golden_answers_is_not_prepared(
    tiny_paths: dict[str, Path], tmp_path: Path
) -> None:
    file = recorded(tiny_paths["bert"], tmp_path / "golden.json")
    engine = Engine(with_golden(tiny_paths["bert"], file))
    await asyncio.to_thread(engine.load)
    engine.start()
    other = ModelSource("bert", str(changed(tiny_paths["bert"], tmp_path / "bert")))

    with pytest.raises(CannotServe, match="not the golden ones"):
        await asyncio.to_thread(engine.prepare, engine.open("bert", other), 2)
    under_another_name = await asyncio.to_thread(engine.prepare, engine.open("other", other), 1)
    await asyncio.to_thread(engine.close)

    assert under_another_name.served.name == "other"  # the golden answers were told about the only model of the start
    assert list(engine.models) == ["bert"]


def test_what_a_load_takes_is_known_before_it_is_made(tiny_paths: dict[str, Path]) -> None:
    engine = Engine(replace(config(tiny_paths["bert"]), control=ControlConfig(memory_bytes=10_000_000)))
    engine.load()
    checkpoint = engine.open("bert", ModelSource("bert", str(tiny_paths["bert"])))

    weights = sum(weight.nbytes for weight in load_file(tiny_paths["bert"] / "model.safetensors").values())

    assert weights <= engine.needed_bytes(checkpoint) <= 2 * weights
    assert engine.free_bytes() == 10_000_000 - engine.held_bytes("bert")
    assert weights <= engine.held_bytes("bert") <= 1.1 * weights


def over(devices: int, path: Path, **options: object) -> EngineConfig:
    return replace(config(path, **options), device=DeviceConfig(("cpu",) * devices))


async def answered(engine: Engine, call: Call) -> np.ndarray:
    return np.stack([result.row for result in await engine.submit(call)])


async def test_two_devices_answer_what_one_answers(tiny_paths: dict[str, Path]) -> None:
    lengths, limits = [1 + number % 60 for number in range(80)], Limits(max_batch_tokens=128)
    one_device, two = (Engine(over(count, tiny_paths["bert"], limits=limits)) for count in (1, 2))
    for engine in (one_device, two):
        await asyncio.to_thread(engine.load)
        engine.start()

    expected = await answered(one_device, one("bert", *lengths))
    for _ in range(100):  # until each device has had a part
        given = await answered(two, one("bert", *lengths))
        devices = two.statistics().devices  # type: ignore[union-attr]
        assert np.abs(given - expected).max() < 1e-5
        if all(device.batches for device in devices):
            break
    for engine in (one_device, two):
        await asyncio.to_thread(engine.close)

    assert [device.name for device in devices] == ["cpu:0", "cpu:1"]
    assert all(device.batches for device in devices)
    assert two.models["bert"].device == "cpu:0, cpu:1"


async def test_a_model_on_two_devices_is_replaced_on_both(tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    other = changed(tiny_paths["bert"], tmp_path / "bert")
    strangers = bert_models()
    engine = Engine(over(2, tiny_paths["bert"]))
    await asyncio.to_thread(engine.load)
    engine.start()
    weights = bert_models() - strangers
    assert len(weights) == 2

    loaded = await asyncio.to_thread(engine.prepare, engine.open("bert", ModelSource("bert", str(other))), 2)
    engine.add(loaded)
    del loaded
    await engine.retire("bert")
    rows = await answered(engine, one("bert@2", *[9] * 400))
    await asyncio.to_thread(engine.close)

    assert np.abs(rows - rows[0]).max() < 1e-5
    assert len(bert_models() - strangers) == 2
    assert not weights


def test_warm_up_runs_on_every_device_and_memory_counts_each_replica(tiny_paths: dict[str, Path]) -> None:
    steps: list[Progress] = []
    control = ControlConfig(memory_bytes=10_000_000)
    one_device = Engine(over(1, tiny_paths["bert"], control=control))
    two = Engine(over(2, tiny_paths["bert"], control=control), progress=steps.append)
    for engine in (one_device, two):
        engine.load()
    checkpoint = two.open("bert", ModelSource("bert", str(tiny_paths["bert"])))

    assert two.held_bytes("bert") == 2 * one_device.held_bytes("bert")
    assert two.needed_bytes(checkpoint) == pytest.approx(2 * one_device.needed_bytes(checkpoint), abs=2)
    assert two.free_bytes() == 10_000_000 - two.held_bytes("bert")
    assert [step.total for step in steps if step.stage == "load"] == [2, 2, 2]
    rehearsed = [step.total for step in steps if step.stage == "warm up"]
    assert len(rehearsed) == rehearsed[0] + 1 and rehearsed[0] % 2 == 0
