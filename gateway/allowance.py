"""
How much callers may still ask for: calls and tokens a second, tokens a day, calls at once.

A function of the time it is given: no clock of its own, no HTTP. Tokens are known when a call was answered, so they
are charged then: whoever overdraws waits until the debt is paid, and overdraws at most by what is in flight.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from gateway.caller import Caller, Grant

DAY_S: Final = 86_400
_FIRST_GUESS_S: Final = 1.0  # how long calls of a caller last of whom none has ended yet
_NEWEST: Final = 0.2  # weight of the last call in how long a caller's calls last


@dataclass(frozen=True, slots=True)
class Now:
    """One moment: seconds of a clock that only runs, and seconds since 1970 of one that people set."""

    running_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A limit is reached: which, and the seconds until a call would pass it."""

    reason: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a caller's limits, below 0 for a debt; of one that it does not have, anything."""

    calls: float
    tokens: float
    today: float
    at_once: float


@dataclass(frozen=True, slots=True)
class Standing:
    """One limit of a caller: `quota` in each `window_s`, what is left, and the seconds until all of it is back."""

    policy: str
    quota: float
    window_s: float | None
    left: float
    back_in_s: float | None


class Bucket:
    """What trickles in at `per_s`, at most `size` of it; spending may leave a debt."""

    def __init__(self, per_s: float, now_s: float) -> None:
        """Begin full: with a second's worth, or with one, if a second brings less."""
        self.per_s = per_s
        self.size = max(1.0, per_s)
        self._level = self.size
        self._at_s = now_s

    def level(self, now_s: float) -> float:
        """Return what is there; below 0 is a debt."""
        return min(self.size, self._level + (now_s - self._at_s) * self.per_s)

    def spend(self, amount: float, now_s: float) -> None:
        """Take some out."""
        self._level, self._at_s = self.level(now_s) - amount, now_s

    def wait_s(self, wanted: float, now_s: float) -> float:
        """Return the seconds until so much is there; at least 0."""
        return max(0.0, (wanted - self.level(now_s)) / self.per_s)


class Account:
    """What one caller has used of its grant."""

    def __init__(self, grant: Grant, now: Now) -> None:
        """Begin with nothing used."""
        self.grant = grant
        self._calls = _bucket(grant.requests_per_s, now)
        self._tokens = _bucket(grant.tokens_per_s, now)
        self._day = 0
        self._today = 0
        self._in_flight = 0
        self.call_s = _FIRST_GUESS_S  # how long its calls last

    def change(self, grant: Grant, now: Now) -> None:
        """Take another grant; what was used of limits that stay the same remains used."""
        if grant.requests_per_s != self.grant.requests_per_s:
            self._calls = _bucket(grant.requests_per_s, now)
        if grant.tokens_per_s != self.grant.tokens_per_s:
            self._tokens = _bucket(grant.tokens_per_s, now)
        self.grant = grant

    def refusal(self, now: Now) -> Refused | None:
        """Say which limit a call would pass now, if any: of several the one that takes longest."""
        waits = {reason: wait_s for reason, wait_s in self._waits(now) if wait_s > 0}
        if not waits:
            return None
        reason = max(waits, key=waits.__getitem__)
        return Refused(reason, waits[reason])

    @contextmanager
    def call(self, now: Callable[[], Now], tokens: Callable[[], int]) -> Iterator[None]:
        """Count a call that was not refused while it lasts, and when it ends the tokens that it cost."""
        began = now()
        if self._calls is not None:
            self._calls.spend(1, began.running_s)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._end(began, now(), tokens())

    def left(self, now: Now) -> "Left":
        """Return what is left of each limit."""
        return Left(
            0.0 if self._calls is None else self._calls.level(now.running_s),
            0.0 if self._tokens is None else self._tokens.level(now.running_s),
            (self.grant.tokens_per_day or 0) - self._spent(now),
            (self.grant.in_flight or 0) - self._in_flight,
        )

    def _waits(self, now: Now) -> Iterator[tuple[str, float]]:
        if self._calls is not None:
            yield "caller_requests", self._calls.wait_s(1, now.running_s)
        if self._tokens is not None:
            yield "caller_tokens", self._tokens.wait_s(min(1.0, self._tokens.size), now.running_s)
        if self.grant.tokens_per_day is not None and self._spent(now) >= self.grant.tokens_per_day:
            yield "caller_quota", _rest_of_day_s(now)
        if self.grant.in_flight is not None and self._in_flight >= self.grant.in_flight:
            yield "caller_in_flight", self.call_s / self.grant.in_flight

    def _end(self, began: Now, now: Now, tokens: int) -> None:
        self.call_s += _NEWEST * (now.running_s - began.running_s - self.call_s)
        if self._tokens is not None:
            self._tokens.spend(tokens, now.running_s)
        self._today = self._spent(now) + tokens
        self._day = _day(now)

    def _spent(self, now: Now) -> int:
        return self._today if self._day == _day(now) else 0


class Accounts:
    """The accounts of all callers that have limits."""

    def __init__(self) -> None:
        """Begin with none; each begins with its first call."""
        self._by_name: dict[str, Account] = {}

    def of(self, caller: Caller, now: Now) -> Account:
        """Return a caller's account, by the grant as it is now."""
        found = self._by_name.get(caller.name)
        if found is None:
            found = self._by_name[caller.name] = Account(caller.grant, now)
        elif found.grant is not caller.grant:
            found.change(caller.grant, now)
        return found


def standings(grant: Grant, left: Left, now: Now) -> list[Standing]:
    """Return every limit of a grant, and what is left of it."""
    rates = (("requests", grant.requests_per_s, left.calls), ("tokens", grant.tokens_per_s, left.tokens))
    found = [_rated(policy, per_s, level) for policy, per_s, level in rates if per_s is not None]
    if grant.tokens_per_day is not None:
        found.append(Standing("day", grant.tokens_per_day, DAY_S, max(0, left.today), _rest_of_day_s(now)))
    if grant.in_flight is not None:
        found.append(Standing("in-flight", grant.in_flight, None, max(0, left.at_once), None))
    return found


def fields(told: list[Standing]) -> list[tuple[bytes, bytes]]:
    """Draw the header fields RateLimit-Policy and RateLimit of draft-ietf-httpapi-ratelimit-headers-10."""
    policies = [f'"{each.policy}";q={math.floor(each.quota)}{_window(each)}' for each in told]
    left = [f'"{each.policy}";r={math.floor(each.left)}{_reset(each)}' for each in told]
    return [(b"ratelimit-policy", ", ".join(policies).encode()), (b"ratelimit", ", ".join(left).encode())]


def _bucket(per_s: float | None, now: Now) -> Bucket | None:
    return None if per_s is None else Bucket(per_s, now.running_s)


def _rated(policy: str, per_s: float, level: float) -> Standing:
    size = max(1.0, per_s)
    return Standing(policy, size, size / per_s, max(0.0, level), max(0.0, (size - level) / per_s))


def _window(standing: Standing) -> str:
    return ';qu="concurrent-requests"' if standing.window_s is None else f";w={math.ceil(standing.window_s)}"


def _reset(standing: Standing) -> str:
    return "" if standing.back_in_s is None else f";t={math.ceil(standing.back_in_s)}"


def _day(now: Now) -> int:
    return int(now.wall_s // DAY_S)


def _rest_of_day_s(now: Now) -> float:
    return DAY_S - now.wall_s % DAY_S
