"""
Other servers' rules for forming batches, written from their source and documents, at their defaults.

None has a deadline: what is late is answered late. Where a device packs, it packs for all of them.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from benchmarks.policy.arrivals import Traffic
from benchmarks.policy.curves import Curve
from benchmarks.policy.simulation import NEVER


class EarlyBound:
    """Ray Serve, MLServer: a batch closes at 32 texts or after 10 ms, whether or not the device could take it."""

    size: Final = 32
    wait_s: Final = 0.01

    def __init__(self, traffic: Traffic, curve: Curve, seed: int) -> None:
        """Start with nothing waiting."""
        self._open: list[int] = []
        self._closes = NEVER
        self._closed: deque[list[int]] = deque()

    def arrive(self, text: int, now: float) -> None:
        """Join the open batch."""
        self._close_due(now)
        if not self._open:
            self._closes = now + self.wait_s
        self._open.append(text)
        if len(self._open) == self.size:
            self._close_due(NEVER)

    def next(self, now: float) -> Sequence[int]:
        """Take the first closed batch."""
        self._close_due(now)
        return self._closed.popleft() if self._closed else []

    def wake_at(self) -> float:
        """The open batch closes by time."""
        return self._closes

    def finished(self, batch: Sequence[int], seconds: float, now: float) -> None:
        """Nothing is learned."""

    def _close_due(self, now: float) -> None:
        if self._open and now >= self._closes:
            self._closed.append(self._open)
            self._open, self._closes = [], NEVER


class LateBound:
    """Triton with a delay of 0: when the device is free it takes the first 32."""

    size: Final = 32

    def __init__(self, traffic: Traffic, curve: Curve, seed: int) -> None:
        """Start with nothing waiting."""
        self._waiting: deque[int] = deque()

    def arrive(self, text: int, now: float) -> None:
        """Wait in line."""
        self._waiting.append(text)

    def next(self, now: float) -> Sequence[int]:
        """Take the first ones."""
        return _first(self._waiting, self.size)

    def wake_at(self) -> float:
        """Work alone wakes it."""
        return NEVER

    def finished(self, batch: Sequence[int], seconds: float, now: float) -> None:
        """Nothing is learned."""


class Tei:
    """
    Text Embeddings Inference: first come, first served, up to 16384 tokens, one batch prefetched.

    The batch after next is frozen as soon as a batch starts, or by the next text to come; a text that does
    not fit closes it. 512 permits for texts waiting or running; without one: 429.
    """

    tokens: Final = 16384
    permits: Final = 512

    def __init__(self, traffic: Traffic, curve: Curve, seed: int) -> None:
        """Start with nothing waiting."""
        self._lengths = traffic.lengths
        self._packed = curve.packed
        self._waiting: deque[int] = deque()
        self._frozen: list[int] = []
        self._in_flight = 0

    def arrive(self, text: int, now: float) -> None:
        """Refuse without a permit; freeze a batch if none is."""
        if self._in_flight == self.permits:
            return
        self._in_flight += 1
        self._waiting.append(text)
        if not self._frozen:
            self._frozen = self._form()

    def next(self, now: float) -> Sequence[int]:
        """Take the frozen batch, and freeze another."""
        batch, self._frozen = self._frozen, []
        self._frozen = self._form()
        return batch

    def wake_at(self) -> float:
        """Work alone wakes it."""
        return NEVER

    def finished(self, batch: Sequence[int], seconds: float, now: float) -> None:
        """Give the permits back."""
        self._in_flight -= len(batch)

    def _form(self) -> list[int]:
        batch: list[int] = []
        tokens = longest = 0
        while self._waiting:
            length = self._lengths[self._waiting[0]]
            tokens, longest = tokens + length, max(longest, length)
            if batch and (tokens if self._packed else longest * (len(batch) + 1)) > self.tokens:
                break
            batch.append(self._waiting.popleft())
        return batch


class Infinity:
    """
    infinity: batches of 32 out of the oldest 256, sorted by length once there are more than 32.

    Batches are frozen while the device runs: up to 4 behind it, and 8 more when 256 texts wait. 32000 may wait.
    The pauses of 5 ms in its loops are left out, in its favour.
    """

    size: Final = 32
    ahead: Final = 4
    published: Final = 8
    waiting_limit: Final = 32_000

    def __init__(self, traffic: Traffic, curve: Curve, seed: int) -> None:
        """Start with nothing waiting."""
        self._lengths = traffic.lengths
        self._waiting: deque[int] = deque()
        self._frozen: deque[list[int]] = deque()

    def arrive(self, text: int, now: float) -> None:
        """Wait in line, or be frozen at once."""
        if len(self._waiting) > self.waiting_limit:
            return
        self._waiting.append(text)
        self._publish()

    def next(self, now: float) -> Sequence[int]:
        """Take the first frozen batch."""
        batch = self._frozen.popleft() if self._frozen else []
        self._publish()
        return batch

    def wake_at(self) -> float:
        """Work alone wakes it."""
        return NEVER

    def finished(self, batch: Sequence[int], seconds: float, now: float) -> None:
        """Nothing is learned."""

    def _publish(self) -> None:
        most = self.published * self.size
        while self._waiting and len(self._frozen) < self.ahead + self.published:
            if len(self._frozen) >= self.ahead and len(self._waiting) < most:
                return
            window = _first(self._waiting, most)
            if len(window) > self.size:
                window.sort(key=self._lengths.__getitem__)
            self._frozen.extend(window[i : i + self.size] for i in range(0, len(window), self.size))


def _first(waiting: deque[int], count: int) -> list[int]:
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]
