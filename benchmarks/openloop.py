"""
Callers that do not wait for each other: arrivals at random moments, whatever the server does.

Latency counts from the intended moment, so that a server that stalls is seen to stall.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.callers import call_of


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of the arrivals of one run."""

    rate: float  # offered, per second
    seconds: float
    latencies_s: tuple[float, ...]  # of answers with status 200, from the intended moment
    statuses: dict[int, int]  # 0: the connection broke
    latest_s: float  # how late the generator itself sent its latest call
    connections: int  # opened for them

    @property
    def calls(self) -> int:
        """Arrivals, whatever became of them; at least 1."""
        return max(1, sum(self.statuses.values()))

    @property
    def answered(self) -> float:
        """Share of arrivals with an answer."""
        return len(self.latencies_s) / self.calls

    def p99_s(self) -> float:
        """99th percentile of the latencies of answers."""
        return float(np.percentile(self.latencies_s, 99)) if self.latencies_s else float("inf")

    def goodput(self, within_s: float) -> float:
        """Answers inside a deadline, per second."""
        return sum(1 for latency_s in self.latencies_s if latency_s <= within_s) / self.seconds


class _Pool:
    """Keep-alive connections, opened when all are in use."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.opened = 0
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, call: bytes) -> int:
        """Send a call; returns the status of its answer, 0 when the connection broke."""
        try:
            ends = self._free.pop() if self._free else await self._open()
            ends[1].write(call)
            head = (await ends[0].readuntil(b"\r\n\r\n")).lower()
            await ends[0].readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        except (OSError, asyncio.IncompleteReadError):
            return 0
        if b"connection: close" not in head:
            self._free.append(ends)
        return int(head[9:12])

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.opened += 1
        return await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


async def offer(
    port: int, texts: Sequence[str], rate: float, seconds: float, *, headers: Sequence[str] = (), seed: int = 0
) -> Seen:
    """Offer calls of one text at a rate (Poisson), and wait for every answer."""
    chance = random.Random(seed)
    calls = [call_of(text, port, headers) for text in texts]
    pool, statuses = _Pool(port), Counter[int]()
    latencies: list[float] = []
    latest_s = 0.0

    async def one(intended: float) -> None:
        status = await pool.ask(chance.choice(calls))
        statuses[status] += 1
        if status == 200:
            latencies.append(time.perf_counter() - intended)

    async with asyncio.TaskGroup() as group:
        started = intended = time.perf_counter()
        while (intended := intended + chance.expovariate(rate)) - started < seconds:
            await asyncio.sleep(max(0.0, intended - time.perf_counter()))
            latest_s = max(latest_s, time.perf_counter() - intended)
            group.create_task(one(intended))
    pool.close()
    return Seen(rate, seconds, tuple(latencies), dict(statuses), latest_s, pool.opened)
