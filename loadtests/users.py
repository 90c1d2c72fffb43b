"""
The users that Locust starts: each offers a share of a plan, or is one caller of a closed loop.

An open loop sends when a call is due, whatever became of those before. Each call runs in a greenlet of its own.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import gevent
import orjson
from gevent.pool import Pool
from locust import FastHttpUser, task
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment

from benchmarks.texts import endless
from loadtests.callers import pick
from loadtests.options import Told
from loadtests.record import Fate, Key, Record, Tally
from loadtests.scenario import Asked, Scenario

_OK: Final = 200
_SHED: Final = (429, 503)
_HEADERS: Final = {"content-type": "application/json", "accept-encoding": "identity"}


@dataclass(slots=True)
class Part:
    """
    This process's part in a run: which shares of the plan it offers, and what came of them.

    It has the shares `first`, `first` + `stride`, ... of `shares` in all, one a user.
    """

    told: Told
    shares: int
    first: int
    stride: int
    on_done: Callable[[], None]
    record: Record = field(default_factory=Record)
    _users: int = 0

    def take(self) -> int | None:
        """Give a user its share; None where there are more users than shares."""
        share = self.first + self.stride * self._users
        self._users += 1
        return share if share < self.shares else None

    def done(self) -> None:
        """Note that a user has offered its share, and had all answers."""
        self.record.shares += 1
        self.on_done()


@dataclass(frozen=True, slots=True)
class _Call:
    """One call, ready to be sent."""

    caller: str
    headers: Mapping[str, str]
    body: bytes


class Load(FastHttpUser):
    """Offers its share of the plan to one route. A scenario file derives one class from it."""

    abstract = True
    insecure = False
    connection_timeout = 5.0
    scenario: ClassVar[Scenario]
    part: ClassVar[Part | None] = None  # Locust makes the users: what they share can only stand at their class

    def __init__(self, environment: Environment) -> None:
        if Load.part is not None:
            self.concurrency = Load.part.told.most_in_flight
            self.network_timeout = Load.part.told.timeout_s
        super().__init__(environment)

    @task
    def take_part(self) -> None:
        """Offer a share, once; then wait until Locust ends the run."""
        part = Load.part
        share = part.take() if part is not None else None
        if part is not None and share is not None:
            offer = self._wait_for_each if part.told.closed else self._offer
            offer(part, share)
            part.done()
        while True:
            gevent.sleep(60)

    def _offer(self, part: Part, share: int) -> None:
        told, draw = part.told, _Draw(self.scenario, part.told, share)
        pool = Pool(told.most_in_flight)
        started = time.perf_counter()
        for moment in told.plan.moments(share, part.shares):
            call = draw.call()
            gevent.sleep(max(0.0, started + moment - time.perf_counter()))
            while time.perf_counter() < started + moment:  # timers may be early
                gevent.sleep(0.0)
            free = pool.free_count() > 0
            for tally in self._tallies(part, call, moment):
                tally.due += 1
                tally.dropped += not free
            if free:
                pool.spawn(self._ask, part, call, moment, started + moment)
        pool.join()

    def _wait_for_each(self, part: Part, share: int) -> None:
        told, draw = part.told, _Draw(self.scenario, part.told, share)
        every_s = part.shares / told.plan.rate if told.plan.rate else 0.0
        started = time.perf_counter()
        while (moment := (sent := time.perf_counter()) - started) < told.plan.whole_s:
            call = draw.call()
            for tally in self._tallies(part, call, moment):
                tally.due += 1
            self._ask(part, call, moment, sent)
            gevent.sleep(max(0.0, sent + every_s - time.perf_counter()))

    def _ask(self, part: Part, call: _Call, moment: float, intended: float) -> None:
        sent = time.perf_counter()
        fate, reason = self._sent(part.told, call, intended)
        latency_s = time.perf_counter() - intended
        for tally in self._tallies(part, call, moment):
            tally.add(fate, latency_s, sent - intended, reason)

    def _sent(self, told: Told, call: _Call, intended: float) -> tuple[Fate, str]:
        """Send a call and read its answer, at most as long as callers wait."""
        try:
            with (
                gevent.Timeout(told.timeout_s),
                self.client.post(
                    self.scenario.path(told.model),
                    data=call.body,  # type: ignore[arg-type] # bytes pass, and are not encoded again
                    headers=dict(call.headers),
                    catch_response=True,
                    name=self.scenario.route,
                ) as answer,
            ):
                fate, reason = self._fate(answer)
                answer.request_meta["response_time"] = 1000 * (time.perf_counter() - intended)
                if fate == "answered":
                    answer.success()
                else:
                    answer.failure(reason)
                return fate, reason
        except gevent.Timeout:  # between the answer's end and here
            return "failed", "Timeout"

    def _fate(self, answer: ResponseContextManager) -> tuple[Fate, str]:
        broken = answer.request_meta["exception"]
        if answer.status_code in _SHED:
            return "shed", f"status {answer.status_code}"
        if answer.status_code and answer.status_code != _OK:
            return "failed", f"status {answer.status_code}"
        if broken is not None:
            return "failed", type(broken).__name__
        mistake = self.scenario.mistake(answer.content or b"")
        return ("answered", "") if mistake is None else ("failed", mistake)

    def _tallies(self, part: Part, call: _Call, moment: float) -> Iterable[Tally]:
        plan = part.told.plan
        period = plan.period(moment)
        key = None if period is None else Key(self.scenario.route, call.caller, period)
        return part.record.places(key, plan.slice(moment))


class _Draw:
    """Makes the calls of one share: the same ones for the same seed."""

    def __init__(self, scenario: Scenario, told: Told, share: int) -> None:
        self._scenario = scenario
        self._told = told
        chance = random.Random(f"{told.plan.seed}/{share}")
        self._asked = Asked(told.model, endless(chance, told.longest_words), chance)
        next(self._asked.texts)  # the first one reads all words, which takes longer than arrivals may wait

    def call(self) -> _Call:
        caller = pick(self._told.callers, self._asked.chance)
        body: dict[str, Any] = {**self._scenario.body(self._asked), **self._told.fields}
        return _Call(caller.name, {**_HEADERS, **caller.headers}, orjson.dumps(body))
