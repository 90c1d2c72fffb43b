"""
What every dialect does with one HTTP exchange: read the body within its limit, find the deadline,
notice that the caller has gone, and turn whatever is raised into the dialect's own answer.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.caller import Caller
from gateway.config import DeadlineConfig, Settings
from gateway.errors import ClientGone, Fault, HttpFault, describe
from gateway.tally import check_values
from gateway.telemetry import Metrics, exchange_of, header
from gateway.writing import Numbers, is_much, json_of, written
from inference import Ability, Answer, Client, DeadlineExceeded, Item, Terms, Truncation

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

_log = logging.getLogger(__name__)

TIMEOUT_HEADER = b"x-request-timeout-ms"
PRIORITY_HEADER = b"x-request-priority"
_JSON: Final = "application/json"
_PIECE: Final = 65536  # bytes
_MOMENT_S: Final = 0.02  # that nobody who leaves has to be noticed in
_PRIORITY = re.compile(r"-?[0-9]", re.ASCII)

_WHERE = re.compile(r" - at `\$\.?(.*)`$")
_NAMED = re.compile(r"field `([^`]{1,100})`")

Endpoint = Callable[[Request], Awaitable[Response]]
Body = TypeVar("Body")
Made = TypeVar("Made")


class Door:
    """What every dialect needs to answer calls."""

    def __init__(self, client: Client, settings: Settings, metrics: Metrics) -> None:
        """Take the way to the engine."""
        self.client = client
        self.limits = settings.engine.limits
        self._settings = settings
        self._metrics = metrics
        self._aside = ThreadPoolExecutor(1, "aside")  # a flood must not take all threads and cores

    async def body(self, request: Request, decoder: msgspec.json.Decoder[Body]) -> Body:
        """Read and check a JSON body; raises HttpFault."""
        return parse(decoder, await self.content(request))

    async def content(self, request: Request) -> bytes:
        """Read a JSON body that is not checked yet; raises HttpFault."""
        body = await read_json(request, self._settings.http.max_body_bytes)
        check_values(body, self.limits)
        return body

    def terms(self, request: Request, ability: Ability, model: str | None, truncation: Truncation) -> Terms:
        """Say on which terms a call runs; raises InvalidRequest for a model that cannot do this."""
        meant = self.model_for(request, model, ability).name
        who = exchange_of(request.scope).caller
        if who is not None and not who.may_ask(ability):
            raise HttpFault(403, "forbidden", f"this key may not ask for {ability}")
        exchange_of(request.scope).model = meant  # known to be served: labels hold no text that a caller made up
        return Terms(
            timeout_s(request, self._settings.deadlines),
            meant,
            truncation,
            caller(request),
            priority(request, self.highest(request)),
        )

    def model_for(self, request: Request, name: str | None, ability: Ability | None) -> "ServedModel":
        """Return the model that is meant, if the caller may use it; raises InvalidRequest and HttpFault."""
        who = exchange_of(request.scope).caller
        if name is not None:
            check_model(who, name)  # whether it is served or not: a 404 would say which ones are
        models = None if who is None else who.grant.models
        if name is None and models is not None and models.isdisjoint(self.client.models):
            raise HttpFault(403, "forbidden", "this key may use no model that is served", "model")
        return self.client.model_for(name, ability, models)

    def models(self, request: Request) -> "Mapping[str, ServedModel]":
        """Return what is served, by name, of that what the caller may use."""
        who = exchange_of(request.scope).caller
        if who is None or who.grant.models is None:
            return self.client.models
        return {name: model for name, model in self.client.models.items() if who.may_use(name)}

    def highest(self, request: Request) -> int:
        """Return the highest class that the call may ask for."""
        who = exchange_of(request.scope).caller
        own = None if who is None else who.grant.max_priority
        return self._settings.http.max_priority if own is None else own

    async def aside(self, request: Request, size: int, work: Callable[[], Made]) -> Made:
        """Do so much that never reaches a device in a thread, one call after another, as long as this one may take."""
        try:
            async with asyncio.timeout(timeout_s(request, self._settings.deadlines)):
                return await self.client.turns.work(caller(request), 1, size, work, self._aside)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before it was done") from None

    async def answer(self, request: Request, asked: Awaitable[Answer[Item]]) -> Answer[Item]:
        """Wait for the answer as long as the caller does, and note what it cost."""
        exchange = exchange_of(request.scope)
        async with cancelled_when_gone(request):
            made = await asked
            with _in_time():
                await self.client.turns.answer(caller(request), len(made.items), self._left_s(request))
        exchange.items, exchange.tokens, exchange.timings = len(made.items), made.tokens, made.timings
        self._metrics.tokenised(made.model, made.timings.tokenise_s)
        return made

    async def write(
        self, request: Request, content: Any, made: Answer[Any], headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> Response:
        """Write an answer of numbers as JSON, with the time it took and a dialect's own headers."""
        if not is_much(made.items):
            return Numbers(json_of(content), made.timings, headers)
        body: list[bytes] = []
        async with cancelled_when_gone(request):
            with _in_time():
                await self.client.turns.write(caller(request), written(content, body), self._left_s(request))
        return Numbers(b"".join(body), made.timings, headers)

    def _left_s(self, request: Request) -> float:
        """How much longer the caller will wait."""
        return exchange_of(request.scope).started + timeout_s(request, self._settings.deadlines) - time.monotonic()


def parse(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """Read a JSON body, or say which field is wrong."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as err:
        raise misfit(err) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise HttpFault(400, "invalid_json", f"the body is not JSON in UTF-8: {err}"[:200]) from None


def misfit(err: msgspec.ValidationError) -> HttpFault:
    """Say in a fault which field is of the wrong kind."""
    where = _WHERE.search(str(err))
    message = _WHERE.sub("", str(err))
    named = _NAMED.search(message)
    return HttpFault(400, "invalid_request", message, where[1] if where else named and named[1])


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed before the answer was written") from None


def answering(route: str, endpoint: Endpoint, render: Callable[[Fault], Response]) -> ASGIApp:
    """Make an endpoint an application that answers every error as `render` draws it."""
    return _Answering(route, endpoint, render)


class _Answering:
    """The outermost handler; an object, which Starlette's routes take as it is: their own wrapping costs 10 us."""

    def __init__(self, route: str, endpoint: Endpoint, render: Callable[[Fault], Response]) -> None:
        self._route = route
        self._endpoint = endpoint
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange_of(scope).route = self._route
        response = await self._answer(Request(scope, receive, send))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._endpoint(request)
        except (ClientDisconnect, ClientGone):
            return self._render(describe(ClientGone()))
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the caller gets an answer
            fault, exchange = describe(error), exchange_of(request.scope)
            exchange.code, exchange.reason = fault.code, fault.reason
            if fault.code == "internal_error":
                _log.exception("request %s failed", exchange.request_id)
            return self._render(fault)


async def read_json(request: Request, most: int) -> bytes:
    """Read a JSON body of at most so many bytes, counted as they arrive."""
    kind = header(request.scope, b"content-type")
    if kind not in {None, _JSON} and _media_type(kind or "") != _JSON:
        told = _media_type(kind or "")[:100]
        raise HttpFault(415, "unsupported_media_type", f"send application/json, not {told}", "Content-Type")
    return await read_body(request, most)


async def read_body(request: Request, most: int) -> bytes:
    """
    Read a body of at most so many bytes, counted as they arrive.

    It is kept in pieces: buffers that grow beside each other leave holes in the heap that nothing fits into.
    """
    declared = header(request.scope, b"content-length") or ""
    if declared.isdecimal() and int(declared) > most:
        raise too_large(most)
    pieces, size = [bytearray()], 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        if len(pieces[-1]) >= _PIECE:
            pieces.append(bytearray())
        pieces[-1] += message.get("body", b"")
        more = message.get("more_body", False)
        size += len(message.get("body", b""))
        if size > most:
            raise too_large(most)
    return b"".join(pieces)


def timeout_s(request: Request, deadlines: DeadlineConfig) -> float:
    """Return how long the caller will wait: its header, else the default."""
    told = header(request.scope, TIMEOUT_HEADER)
    if told is None:
        return deadlines.default_timeout_s
    most = round(deadlines.max_timeout_s * 1000)
    if not (told.isascii() and told.isdecimal() and 1 <= int(told[:10]) <= most):
        raise HttpFault(400, "invalid_request", f"must be whole milliseconds from 1 to {most}", "X-Request-Timeout-Ms")
    return int(told[:10]) / 1000


def priority(request: Request, most: int) -> int:
    """Return the call's class: 0, or what its header says, up to the highest that anybody gets; higher runs earlier."""
    told = header(request.scope, PRIORITY_HEADER)
    if told is None:
        return min(0, most)
    if not _PRIORITY.fullmatch(told):
        raise HttpFault(400, "invalid_request", "must be a whole number from -9 to 9", "X-Request-Priority")
    return min(int(told), most)


def caller(request: Request) -> str:
    """Return who calls: the key's caller, or without keys the address, of IPv6 its first 64 bits."""
    who = exchange_of(request.scope).caller
    if who is not None:
        return who.name
    told = request.scope.get("client")
    return network(told[0]) if told else ""


def check_model(who: Caller | None, name: str) -> None:
    """Raise HttpFault where a caller may not use a model of this name, served or not."""
    if who is not None and not who.may_use(name):
        raise HttpFault(403, "forbidden", f"this key may not use the model {name!r}", "model")


class cancelled_when_gone:
    """
    End the work inside when the caller closes the connection; enter it after the body has been read.

    It listens once the work has lasted a moment: refusals and quick answers end before, and a task costs more than
    they do.
    """

    def __init__(self, request: Request) -> None:
        """Take the exchange."""
        self._request = request
        self._work = asyncio.current_task()
        self._gone = False
        self._watch: asyncio.Task[Message] | None = None

    async def __aenter__(self) -> None:
        self._start = asyncio.get_running_loop().call_later(_MOMENT_S, self._listen)

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._start.cancel()
        if self._watch is not None:
            self._watch.remove_done_callback(self._cancel)
            self._watch.cancel()
        if kind is asyncio.CancelledError and self._gone and self._work is not None:
            self._work.uncancel()
            raise ClientGone from None

    def _listen(self) -> None:
        self._watch = asyncio.ensure_future(self._request.receive())
        self._watch.add_done_callback(self._cancel)

    def _cancel(self, done: "asyncio.Task[Message]") -> None:
        if not done.cancelled() and self._work is not None:
            self._gone = True
            self._work.cancel()


@lru_cache(maxsize=4096)
def network(host: str) -> str:
    """Return an IPv4 address, or the /64 of an IPv6 address: whoever has one of its addresses has them all."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.version == 4:  # noqa: PLR2004
        return host
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else str(ip_network((int(address) >> 64 << 64, 64)))


def _media_type(told: str) -> str:
    return told.partition(";")[0].strip().lower()


def too_large(most: int) -> HttpFault:
    """Return the fault of a body that is larger than so many bytes."""
    return HttpFault(413, "body_too_large", f"the body is larger than {most} bytes")
