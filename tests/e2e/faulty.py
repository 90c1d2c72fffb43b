"""`headrace` with a device that fails on some words: run it as `python -m tests.e2e.faulty serve`."""

import atexit
import sys
import threading
from collections.abc import Mapping
from typing import Any

from gateway.__main__ import main
from inference import DeviceLost, RuntimeFailed, engine
from inference.batcher import Batcher
from inference.request import Batch
from inference.runtime import Launched, Runtime

HANGS, HAS_A_BUG, IS_LOST, FAILS = 6, 7, 8, 9  # the tokens of w1, w2, w3, w4 in a tiny model


class Faulty:
    """A runtime: what it wraps, but for four tokens."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def launch(self, batch: Batch) -> Launched:
        tokens = {int(token) for entry in batch.entries for token in entry.request.tokens}
        if HANGS in tokens:
            atexit.register(hang)  # a driver's own end waits for its kernels too
            hang()
        if HAS_A_BUG in tokens:
            raise ValueError("a bug")
        if IS_LOST in tokens:
            raise DeviceLost("gone")
        if FAILS in tokens:
            raise RuntimeFailed("planted")
        return self._runtime.launch(batch)


def hang() -> None:
    threading.Event().wait()


def batcher(scheduler: Any, devices: Mapping[str, Mapping[str, Runtime]], *others: Any, **options: Any) -> Batcher:
    """Build the batcher before faulty runtimes."""
    faulty = {device: {name: Faulty(it) for name, it in runtimes.items()} for device, runtimes in devices.items()}
    return Batcher(scheduler, faulty, *others, **options)


if __name__ == "__main__":
    engine.Batcher = batcher  # type: ignore[attr-defined, assignment, misc]
    sys.exit(main())
