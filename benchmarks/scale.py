"""
What a replica costs as it grows: from exec to ready, cold and warm, and its memory over a soak.

Cold: the pages of the model and of all packages are given back to the system first, so that the disk is read. A soak
of 15 minutes: `python -m benchmarks scale --rounds 3 --seconds 900`.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks import machine, texts
from benchmarks.callers import ClosedLoop
from benchmarks.results import Figure, Findings, Goal
from benchmarks.server import Server, serving
from inference.config import default_cache_dir
from inference.fetch import DEFAULT_MODEL, fetch_package

_CALLERS: Final = 64
_TEXTS: Final = 256
_LOOKS: Final = 10  # at the memory, over the soak
_FLAGS: Final = ("--latency-target-ms", "1000", "--auto-truncate")
_GROWTH_GOAL_MB: Final = 10.0


def run(rounds: int, seconds: float) -> Findings:
    """Start so many times each way, then load the last server for `seconds`."""
    core, callers_core = machine.two_cores()
    os.sched_setaffinity(0, {callers_core})
    model = fetch_package(DEFAULT_MODEL, default_cache_dir())
    cold: list[float] = []
    warm: list[float] = []
    for number in range(rounds):
        _forget(model)
        cold.append(_start_s(core))
        warm.append(_start_s(core))
        sys.stderr.write(f"round {number + 1} of {rounds}: cold {cold[-1]:.1f} s, warm {warm[-1]:.1f} s\n")
    with serving(core, *_FLAGS) as server:
        ready_mb = server.memory_mb()
        loaded_mb = [_loaded_mb(server, seconds / _LOOKS) for _ in range(_LOOKS)]
    growth_mb = loaded_mb[-1] - loaded_mb[_LOOKS // 2]
    figures = [
        Figure("exec to ready, cold", "s", tuple(cold)),
        Figure("exec to ready, warm", "s", tuple(warm)),
        Figure("memory when ready", "MB", (ready_mb,)),
        Figure(f"memory under {_CALLERS} callers, a tenth of the soak each", "MB", tuple(loaded_mb)),
    ]
    goal = Goal("memory that the second half of the soak adds, MB", growth_mb, _GROWTH_GOAL_MB, at_most=True)
    conditions = {"model": "all-MiniLM-L6-v2, float32", "threads": 1, "rounds": rounds, "seconds of soak": seconds}
    return Findings("scale", "cpu", figures, [goal], conditions)


def _start_s(core: int) -> float:
    """Seconds from exec to the first readiness, which is looked for 20 times a second."""
    started = time.perf_counter()
    with serving(core, *_FLAGS):
        return time.perf_counter() - started


def _loaded_mb(server: Server, seconds: float) -> float:
    async def watch() -> None:
        await ClosedLoop(server.port, texts.passages(_TEXTS), _CALLERS, server.cpu_s).run(seconds)

    asyncio.run(watch())
    return server.memory_mb()


def _forget(model: Path) -> None:
    """Give the pages of these files back, as far as nobody else has them mapped."""
    for file in _files(model, Path(sys.prefix)):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _files(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from (file for file in folder.rglob("*") if file.is_file())
