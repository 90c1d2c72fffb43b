"""
`python -m benchmarks.swarm`: callers in a process of their own, since one process cannot ask as fast as a GPU answers.

Imports neither torch nor the product. Prints what it saw in a window that all such processes share, as JSON.
"""

import argparse
import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import numpy as np
import orjson

from benchmarks import callers

_WORDS: Final = 30000  # of the vocabulary
_STARTED_WITHIN_S: Final = 1.5


def text(length: int, chance: random.Random) -> str:
    """Make a text of so many tokens, special ones included, for a tokenizer that takes each word for one."""
    return " ".join(f"w{chance.randrange(_WORDS)}" for _ in range(length - 2))


class TooLate(Exception):
    """This machine starts processes too slowly to measure anything."""


@dataclass(frozen=True, slots=True)
class Load:
    """Calls for texts of so many tokens, `many` a call, and so many calls in flight from each process."""

    port: int
    model: str
    length: int
    many: int
    processes: int
    in_flight: int

    def run(self, seconds: float, meter: Callable[[], float]) -> tuple[float, float, float]:
        """
        Watch it for so many seconds.

        Returns texts a second, the worst process's 99th percentile of a call's seconds, and how far the meter went.
        """
        begin = time.monotonic() + _STARTED_WITHIN_S
        told = [str(value) for value in (self.port, self.model, self.length, self.many, self.in_flight, begin, seconds)]
        command = [sys.executable, "-m", "benchmarks.swarm", *told]
        with ExitStack() as stack:
            running = []
            for seed in range(self.processes):
                running.append(subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE))
                stack.callback(running[-1].kill)
            time.sleep(max(0.0, begin - time.monotonic()))
            before = meter()
            time.sleep(seconds)
            spent = meter() - before
            found = [json.loads(process.communicate()[0]) for process in running]
        answers = self.many * sum(one["answers"] for one in found)
        return answers / seconds, max(one["p99_s"] for one in found), spent


def percentile_99(took: Sequence[float]) -> float:
    """Return the 99th percentile of some seconds; of none it is no number."""
    return float(np.percentile(took, 99)) if took else float("nan")


def main() -> None:
    """Be one of the processes; no call is like another in flight, since those would run once."""
    parser = argparse.ArgumentParser()
    for name, kind in (("port", int), ("model", str), ("length", int), ("many", int), ("in_flight", int)):
        parser.add_argument(name, type=kind)
    for name in ("begin", "seconds"):
        parser.add_argument(name, type=float)
    parser.add_argument("seed", type=int)
    told = parser.parse_args()
    chance = random.Random(told.seed)
    texts = [
        [text(told.length, chance) for _ in range(told.many)] for _ in range(2 * told.in_flight)
    ]  # none like one in flight
    bodies = [orjson.dumps({"model": told.model, "input": each, "encoding_format": "base64"}) for each in texts]
    calls = [callers.http_call("POST", "/v1/embeddings", body, told.port) for body in bodies]
    if time.monotonic() > told.begin:
        raise TooLate("the window began before its callers were ready")
    took = asyncio.run(_ask(told.port, calls, told.in_flight, told.begin, told.seconds))
    sys.stdout.write(json.dumps({"answers": len(took), "p99_s": percentile_99(took)}))


async def _ask(port: int, calls: Sequence[bytes], in_flight: int, begin: float, seconds: float) -> list[float]:
    source, took = itertools.cycle(calls), list[float]()

    async def caller() -> None:
        connection = await callers.connect(port)
        while (started := time.monotonic()) < begin + seconds:
            await connection.ask(next(source))
            if begin <= (ended := time.monotonic()) < begin + seconds:
                took.append(ended - started)
        await connection.close()

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return took


if __name__ == "__main__":
    main()
