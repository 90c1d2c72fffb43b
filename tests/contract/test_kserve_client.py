"""What KServe's own client makes of our answers on a real socket."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.gateway.fakes import listening, vector

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).parent / "clients" / "kserve_calls.py"
ROWS = [vector([2, 4, 3]), vector([2, 5, 5, 3])]


async def test_it_sends_and_reads_tensors_and_health(environment: Callable[[str], Path]) -> None:
    python = environment("kserve")
    async with listening() as address:
        process = await asyncio.create_subprocess_exec(
            python, SCRIPT, f"http://127.0.0.1:{address.port}", stdout=-1, stderr=-1
        )
        out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    told = json.loads(out.splitlines()[-1])
    for form in ("json", "bytes", "bytes out", "output in bytes", "dict"):
        np.testing.assert_array_equal(np.float32(told[form]), ROWS)
    assert told["id"] == "mine"
    assert told["live"] is told["ready"] is told["model ready"] is True
    assert "'nobody' is not served" in told["unknown model"] and "404" in told["unknown model"]
    assert "parameters.zzz" in told["unknown parameter"] and "400" in told["unknown parameter"]
