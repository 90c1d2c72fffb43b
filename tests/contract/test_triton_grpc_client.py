"""What Triton's own gRPC client, sync and aio, makes of our answers on a real socket."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.config import HttpConfig, Settings
from inference.labels import softmax
from tests.gateway.fakes import HIDDEN, LABELS, MODEL, FakeEngine, listening, vector

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parent / "clients" / "triton_grpc_calls.py"
SETTINGS = replace(Settings(), http=HttpConfig(grpc_port=0))
ROWS = [vector([2, 4, 3]).tolist(), vector([2, 5, 5, 3]).tolist()]


@pytest.fixture(scope="session")
def python(environment: Callable[[str], Path]) -> Path:
    return environment("tritonclient")


async def told_by(python: Path, calls: str, engine: FakeEngine | None = None) -> dict[str, Any]:
    async with listening(engine, SETTINGS) as address:
        process = await asyncio.create_subprocess_exec(
            python, SCRIPT, calls, f"127.0.0.1:{address.grpc_port}", stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_it_sends_and_reads_tensors_in_every_form(python: Path) -> None:
    told = await told_by(python, "embed")

    assert told.pop("id") == "mine"
    short = np.array(ROWS, np.float32)[:, :3]
    np.testing.assert_allclose(told.pop("dimensions"), short / np.linalg.norm(short, axis=1, keepdims=True), rtol=1e-6)
    assert [form for form, rows in told.items() if rows != ROWS] == []


async def test_its_streams_are_answered_in_order(python: Path) -> None:
    told = await told_by(python, "stream")

    assert told["ids"] == ["0", "1", "2", "3"]
    assert told["rows"] == [ROWS] * 4
    assert told["errors"] == [f"parameters.dimensions: must be between 1 and {HIDDEN} for {MODEL}"]


async def test_it_reads_health_metadata_configuration_and_statistics(python: Path) -> None:
    told = await told_by(python, "look")

    assert told["live"] and told["ready"]
    assert (told["model ready"], told["unknown ready"]) == ([True, True, False], False)
    assert told["server"]["name"] == "headrace"
    assert told["metadata"]["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": ["-1", str(HIDDEN)]}]
    assert told["config"]["output"] == [{"name": "embedding", "data_type": "TYPE_FP32", "dims": [str(HIDDEN)]}]
    assert told["index"] == [{"name": MODEL, "version": "1", "state": "READY"}]
    for statistics in (told["statistics"], told["model statistics"]):
        (one,) = statistics["model_stats"]
        assert (one["name"], one["inference_stats"]["success"]["count"]) == (MODEL, "1")


async def test_it_raises_its_own_error_with_our_words(python: Path) -> None:
    told = await told_by(python, "fail")

    wanted = {
        "datatype": ("INVALID_ARGUMENT", "'FP32' is not taken"),
        "model": ("NOT_FOUND", "'nobody' is not served"),
        "version": ("NOT_FOUND", "has no version '2'"),
        "output": ("INVALID_ARGUMENT", "outputs[0].name: is no output"),
        "sequence": ("INVALID_ARGUMENT", "parameters.sequence_"),
        "load": ("UNIMPLEMENTED", "models are loaded and unloaded over HTTP alone"),
        "unload": ("UNIMPLEMENTED", "models are loaded and unloaded over HTTP alone"),
        "system memory": ("UNIMPLEMENTED", "shared memory is not supported"),
        "cuda memory": ("UNIMPLEMENTED", "shared memory is not supported"),
        "trace": ("UNIMPLEMENTED", "trace and log settings"),
        "log": ("UNIMPLEMENTED", "trace and log settings"),
    }
    statuses = {name: f"StatusCode.{status}" for name, (status, _) in wanted.items()}
    assert {name: one["status"] for name, one in told.items()} == statuses
    assert [name for name, (_, words) in wanted.items() if words not in told[name]["message"]] == []


async def test_its_asynchronous_form_reads_the_same(python: Path) -> None:
    told = await told_by(python, "embed_aio")

    assert told["many"] == [ROWS] * 8
    assert told["ready"]
    assert told["metadata"]["name"] == MODEL
    assert told["model"]["status"] == "StatusCode.NOT_FOUND"


async def test_it_reads_labels_and_classes(python: Path) -> None:
    engine = FakeEngine({MODEL: "classify"})
    told = await told_by(python, "classify", engine)

    scores = [softmax(engine.device.row(ids, "logits")) for ids in ([2, 4, 3], [2, 5, 5, 3])]
    best = [int(row.argmax()) for row in scores]
    names = LABELS["classify"]
    np.testing.assert_array_equal(np.float32(told["score"]), scores)
    assert told["label"] == [names[index] for index in best]
    assert told["classes"] == [f"{row[i]:f}:{i}:{names[i]}" for row, i in zip(scores, best, strict=True)]
