"""Limits over all replicas, in a real Redis."""

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.caller import Caller, Grant
from gateway.shared_allowance import Entered, SharedAccounts
from tests.gateway.fakes import ready
from tests.gateway.keys import bearer, key_for, keyed
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Replicas:
    """Two processes' worth of accounts, for one caller."""

    def __init__(self, redis: RedisServer, lease_s: float = 60.0, **limits: float) -> None:
        self.caller = Caller("search", "0" * 16, Grant(**limits))
        self.told: list[bool] = []
        self.clock = Clock()
        self.both = [SharedAccounts(redis.url, lease_s, reached=self.told.append, clock=self.clock) for _ in range(2)]

    async def enter(self, which: int = 0) -> Entered | None:
        return await self.both[which].enter(self.caller, 0.5)

    async def call(self, which: int, tokens: int = 0) -> str:
        """Make a call; why it is refused, if it is."""
        entered = await self.enter(which)
        assert entered is not None
        if entered.refused is None:
            await self.both[which].leave(self.caller, entered.lease, tokens)
        return "" if entered.refused is None else entered.refused.reason

    async def close(self) -> None:
        for each in self.both:
            await each.close()


async def test_calls_a_second_are_those_of_all_replicas(redis: RedisServer) -> None:
    subject = Replicas(redis, requests_per_s=4.0)

    reasons = [await subject.call(turn % 2) for turn in range(6)]
    entered = await subject.enter()
    await subject.close()

    assert reasons == ["", "", "", "", "caller_requests", "caller_requests"]
    assert entered is not None
    assert entered.refused is not None
    assert 0 < entered.refused.retry_after_s <= 0.25
    assert entered.left.calls < 1


@pytest.mark.parametrize(
    ("limits", "reason"), [({"tokens_per_s": 10.0}, "caller_tokens"), ({"tokens_per_day": 10}, "caller_quota")]
)
async def test_tokens_of_one_replica_count_at_the_other(
    redis: RedisServer, limits: dict[str, float], reason: str
) -> None:
    subject = Replicas(redis, **limits)

    reasons = [await subject.call(0, tokens=1000), await subject.call(1)]
    entered = await subject.enter()
    await subject.close()

    assert reasons == ["", reason]
    assert entered is not None
    assert entered.refused is not None
    assert entered.refused.retry_after_s <= (86_400 if reason == "caller_quota" else 99.2)


async def test_calls_at_once_are_those_of_all_replicas_and_are_given_back(redis: RedisServer) -> None:
    subject = Replicas(redis, in_flight=1)

    first = await subject.enter(0)
    full = await subject.call(1)
    assert first is not None
    await subject.both[0].leave(subject.caller, first.lease, 0)
    freed = await subject.call(1)
    await subject.close()

    assert (full, freed) == ("caller_in_flight", "")


async def test_a_replica_that_dies_gives_its_places_back_in_time(redis: RedisServer) -> None:
    subject = Replicas(redis, lease_s=0.3, in_flight=1)

    await subject.enter(0)
    reasons = [await subject.call(1)]
    give_up = time.monotonic() + 30
    while reasons[-1] and time.monotonic() < give_up:
        reasons.append(await subject.call(1))
    await subject.close()

    assert reasons[0] == "caller_in_flight"
    assert reasons[-1] == ""


async def test_callers_do_not_share(redis: RedisServer) -> None:
    one, other = Replicas(redis, requests_per_s=1.0), Replicas(redis, requests_per_s=1.0)
    other.caller = Caller("other", "1" * 16, other.caller.grant)

    reasons = [await one.call(0), await one.call(1), await other.call(0)]
    await one.close()
    await other.close()

    assert reasons == ["", "caller_requests", ""]


@pytest.mark.parametrize("how", ["killed", "stuck"])
async def test_when_redis_is_away_nobody_waits_for_it_and_it_is_asked_again_a_second_later(
    redis: RedisServer, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    subject = Replicas(redis, requests_per_s=1000.0)
    await subject.call(0)

    redis.kill() if how == "killed" else redis.signal(signal.SIGSTOP)
    away = [await subject.enter() for _ in range(100)]  # all but the first without a look
    redis.start() if how == "killed" else redis.signal(signal.SIGCONT)
    still = await subject.enter()
    subject.clock.now = 1.0
    back = await subject.enter()
    await subject.close()

    assert away == [None] * 100
    assert still is None
    assert back is not None
    assert subject.told == [True, False, True]
    assert [record.levelname for record in caplog.records if record.name == "gateway.shared_allowance"] == [
        "INFO",
        "WARNING",
        "INFO",
    ]


async def test_two_gateways_hold_one_limit_and_each_its_own_when_redis_is_away(
    redis: RedisServer, tmp_path: Path
) -> None:
    key = key_for(tmp_path / "keys", tokens_per_day=8)  # a call costs 3
    settings = keyed(tmp_path / "keys")
    settings = replace(settings, access=replace(settings.access, redis_url=redis.url))

    async with ready(settings=settings) as one, ready(settings=settings) as other:
        answers = [await each.embed({"input": "w1"}, **bearer(key)) for each in (one, other, one, other)]
        shared = other.metric("headrace_shared_limits")
        redis.kill()
        alone = await other.embed({"input": "w1"}, **bearer(key))

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=8", "r=5", "r=2", "r=0"]
    assert 0 < int(answers[3].headers["retry-after"]) <= 86_400
    assert alone.status_code == 200
    assert alone.headers["ratelimit"].startswith('"day";r=5;')
    assert (shared, other.metric("headrace_shared_limits")) == (1, 0)
