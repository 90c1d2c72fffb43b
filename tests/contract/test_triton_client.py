"""What Triton's own client, sync and aio, makes of our answers on a real socket."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.labels import softmax
from tests.gateway.fakes import HIDDEN, LABELS, MODEL, Address, FakeEngine, listening, vector

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parent / "clients" / "triton_calls.py"
ROWS = [vector([2, 4, 3]).tolist(), vector([2, 5, 5, 3]).tolist()]


@pytest.fixture(scope="session")
def python(environment: Callable[[str], Path]) -> Path:
    return environment("tritonclient")


async def told_by(python: Path, calls: str, address: Address) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        python, SCRIPT, calls, f"127.0.0.1:{address.port}", stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_it_sends_and_reads_tensors_in_every_form(python: Path) -> None:
    async with listening() as address:
        told = await told_by(python, "embed", address)

    assert told.pop("id") == "mine"
    assert told.pop("raw") == [ROWS[0]]
    short = np.array(ROWS, np.float32)[:, :3]
    np.testing.assert_allclose(told.pop("dimensions"), short / np.linalg.norm(short, axis=1, keepdims=True), rtol=1e-6)
    assert [form for form, rows in told.items() if not np.array_equal(np.float32(rows), np.float32(ROWS))] == []


async def test_it_reads_health_metadata_configuration_and_statistics(python: Path) -> None:
    async with listening() as address:
        told = await told_by(python, "look", address)

    assert told["live"] and told["ready"]
    assert (told["model ready"], told["unknown ready"]) == ([True, True, False], False)
    assert told["server"]["name"] == "headrace"
    assert told["metadata"]["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, HIDDEN]}]
    assert told["config"]["output"] == [{"name": "embedding", "data_type": "TYPE_FP32", "dims": [HIDDEN]}]
    assert told["index"] == [{"name": MODEL, "version": "1", "state": "READY", "reason": ""}]
    for statistics in (told["statistics"], told["model statistics"]):
        (one,) = statistics["model_stats"]
        assert (one["name"], one["inference_stats"]["success"]["count"]) == (MODEL, 1)


async def test_it_raises_its_own_error_with_our_words(python: Path) -> None:
    async with listening() as address:
        told = await told_by(python, "fail", address)

    wanted = {
        "datatype": ("400", "'FP32' is not taken"),
        "model": ("404", "'nobody' is not served"),
        "version": ("404", "has no version '2'"),
        "output": ("400", "outputs[0].name: is no output"),
        "sequence": ("400", "parameters.sequence_id"),
        "load": ("403", "loading and unloading models is not enabled"),
        "unload": ("403", "loading and unloading models is not enabled"),
        "system memory": ("400", "shared memory is not supported"),
        "cuda memory": ("400", "shared memory is not supported"),
        "register": ("400", "shared memory is not supported"),
        "trace": ("400", "trace and log settings"),
        "log": ("400", "trace and log settings"),
    }
    assert {name: one["status"] for name, one in told.items()} == {name: status for name, (status, _) in wanted.items()}
    assert [name for name, (_, words) in wanted.items() if words not in told[name]["message"]] == []


async def test_its_asynchronous_form_reads_the_same(python: Path) -> None:
    async with listening() as address:
        told = await told_by(python, "embed_aio", address)

    assert told["many"] == [ROWS] * 8
    assert told["gzip"] == ROWS
    assert told["ready"]
    assert told["metadata"]["name"] == told["index"][0]["name"] == MODEL
    assert told["statistics"]["model_stats"][0]["inference_stats"]["success"]["count"] == 9
    assert told["model"]["status"] == "404"


async def test_it_reads_labels_and_classes(python: Path) -> None:
    engine = FakeEngine({MODEL: "classify"})
    async with listening(engine) as address:
        told = await told_by(python, "classify", address)

    scores = [softmax(engine.device.row(ids, "logits")) for ids in ([2, 4, 3], [2, 5, 5, 3])]
    best = [int(row.argmax()) for row in scores]
    names = LABELS["classify"]
    np.testing.assert_array_equal(np.float32(told["score"]), scores)
    assert told["label"] == [names[index] for index in best]
    assert told["classes"] == [f"{row[i]:f}:{i}:{names[i]}" for row, i in zip(scores, best, strict=True)]
