"""
The same limits, counted over all replicas, in Redis.

Each replica counts for itself besides. When Redis cannot be reached, that count alone holds: every replica then lets
each caller have the whole of its limits, and asks Redis again once a second. Limits are there to share capacity out;
a service that refuses everybody because a counter is gone shares out none.
"""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from gateway.allowance import Left, Refused
from gateway.caller import Caller

_log = logging.getLogger(__name__)

_ANSWER_S: Final = 0.25  # Redis is near, or it is away
_AGAIN_S: Final = 1.0
_REASONS: Final = ("", "caller_requests", "caller_tokens", "caller_quota", "caller_in_flight")

# Both scripts run whole, one at a time, by Redis' own clock: the clocks of replicas differ.
_STATE: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local function level(name, rate, size)
  local kept = redis.call('HMGET', KEYS[1], name, name .. '_at')
  if not kept[1] then return size end
  return math.min(size, kept[1] + math.max(0, now - kept[2]) * rate)
end
local function keep(name, value)
  redis.call('HSET', KEYS[1], name, tostring(value), name .. '_at', string.format('%.6f', now))
end
local function spent()
  local kept = redis.call('HMGET', KEYS[1], 'day', 'today')
  if kept[1] and tonumber(kept[1]) == math.floor(now / 86400) then return tonumber(kept[2]) end
  return 0
end
"""
_ENTER: Final = (
    _STATE
    + """
local calls, tokens = tonumber(ARGV[1]), tonumber(ARGV[2])
local most_today, most_at_once = tonumber(ARGV[3]), tonumber(ARGV[4])
local lease, lease_s, call_s = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local left = {-1, -1, -1, -1}
local reason, wait = 0, 0
local function refuse(why, seconds)
  if seconds > wait then reason, wait = why, seconds end
end
if calls > 0 then
  left[1] = level('calls', calls, math.max(1, calls))
  refuse(1, (1 - left[1]) / calls)
end
if tokens > 0 then
  left[2] = level('tokens', tokens, math.max(1, tokens))
  refuse(2, (1 - left[2]) / tokens)
end
if most_today > 0 then
  left[3] = most_today - spent()
  if left[3] <= 0 then refuse(3, 86400 - now % 86400) end
end
if most_at_once > 0 then
  left[4] = most_at_once - redis.call('ZCARD', KEYS[2])
  if left[4] <= 0 then refuse(4, call_s / most_at_once) end
end
if reason == 0 then
  if calls > 0 then
    left[1] = left[1] - 1
    keep('calls', left[1])
  end
  if most_at_once > 0 then
    left[4] = left[4] - 1
    redis.call('ZADD', KEYS[2], now + lease_s, lease)
    redis.call('EXPIRE', KEYS[2], math.ceil(lease_s))
  end
  redis.call('EXPIRE', KEYS[1], 172800)
end
return {tostring(reason), tostring(wait), tostring(left[1]), tostring(left[2]), tostring(left[3]), tostring(left[4])}
"""
)
_LEAVE: Final = (
    _STATE
    + """
local rate, lease, cost = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
redis.call('ZREM', KEYS[2], lease)
if cost > 0 then
  if rate > 0 then keep('tokens', level('tokens', rate, math.max(1, rate)) - cost) end
  redis.call('HSET', KEYS[1], 'today', spent() + cost, 'day', math.floor(now / 86400))
  redis.call('EXPIRE', KEYS[1], 172800)
end
return 0
"""
)


@dataclass(frozen=True, slots=True)
class Entered:
    """What Redis says of a call: whether a limit refuses it, and what is left of each."""

    refused: Refused | None
    left: Left
    lease: str


class SharedAccounts:
    """The accounts of all callers, in a Redis that all replicas use."""

    def __init__(
        self,
        url: str,
        lease_s: float,
        *,
        reached: Callable[[bool], None] = lambda there: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Take where it is; nothing is asked yet.

        A call that never ends, since its replica is gone, counts as in flight for `lease_s`. `reached` hears whether
        Redis answered, whenever that changes.
        """
        self._redis = Redis.from_url(
            url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 0)
        )
        self._enter = self._redis.register_script(_ENTER)
        self._leave = self._redis.register_script(_LEAVE)
        self._lease_s = lease_s
        self._reached = reached
        self._clock = clock
        self._there: bool | None = None  # nothing was asked yet
        self._ask_at = 0.0

    async def enter(self, caller: Caller, call_s: float) -> Entered | None:
        """Count a call, which lasts about so long, unless a limit refuses it; None: Redis is away."""
        grant, lease = caller.grant, secrets.token_hex(8)
        limits = [grant.requests_per_s, grant.tokens_per_s, grant.tokens_per_day, grant.in_flight]
        arguments = [*(limit or 0 for limit in limits), lease, self._lease_s, call_s]
        told = await self._ask(self._enter, caller, arguments)
        if told is None:
            return None
        which, wait_s, *left = map(float, told)
        return Entered(Refused(_REASONS[int(which)], wait_s) if which else None, Left(*left), lease)

    async def leave(self, caller: Caller, lease: str, tokens: int) -> None:
        """Count the end of a call, and what it cost."""
        await self._ask(self._leave, caller, [caller.grant.tokens_per_s or 0, lease, tokens])

    async def _ask(self, script: AsyncScript, caller: Caller, arguments: list[Any]) -> Any:
        """Run a script; None: Redis is away, or was a moment ago."""
        if self._clock() < self._ask_at:
            return None
        if self._there is False:
            self._ask_at = self._clock() + _AGAIN_S  # the others go on without waiting for this one
        name = f"headrace:{{{caller.name}}}"  # in a cluster, all of a caller is in one place
        try:
            told = await script(keys=[name, f"{name}:in-flight"], args=arguments)
        except (RedisError, OSError) as err:
            self._ask_at = self._clock() + _AGAIN_S
            self._tell(there=False, why=type(err).__name__)
            return None
        self._ask_at = 0.0
        self._tell(there=True)
        return told

    def _tell(self, *, there: bool, why: str = "") -> None:
        if there == self._there:
            return
        self._there = there
        self._reached(there)
        if there:
            _log.info("Redis answers: limits of callers are counted over all replicas")
        else:
            _log.warning("Redis is away (%s): each replica counts limits for itself", why)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()
