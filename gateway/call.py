"""
What every dialect does with one HTTP exchange: read the body within its limit, find the deadline,
notice that the caller has gone, and turn whatever is raised into the dialect's own answer.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message

from gateway.config import DeadlineConfig, Settings
from gateway.errors import ClientGone, Fault, HttpFault, describe
from gateway.telemetry import Metrics, exchange_of, server_timing
from inference import Ability, Answer, CallTimings, Client, Item, Terms, Truncation

_log = logging.getLogger(__name__)

TIMEOUT_HEADER = "x-request-timeout-ms"
PRIORITY_HEADER = "x-request-priority"
_PRIORITY = re.compile(r"-?[0-9]", re.ASCII)

_WHERE = re.compile(r" - at `\$\.?(.*)`$")
_NAMED = re.compile(r"field `([^`]{1,100})`")

Endpoint = Callable[[Request], Awaitable[Response]]
Body = TypeVar("Body")


class Door:
    """What every dialect needs to answer calls."""

    def __init__(self, client: Client, settings: Settings, metrics: Metrics) -> None:
        """Take the way to the engine."""
        self.client = client
        self._settings = settings
        self._metrics = metrics

    async def body(self, request: Request, decoder: msgspec.json.Decoder[Body]) -> Body:
        """Read and check a JSON body; raises HttpFault."""
        return parse(decoder, await read_json(request, self._settings.http.max_body_bytes))

    def terms(self, request: Request, ability: Ability, model: str | None, truncation: Truncation) -> Terms:
        """Say on which terms a call runs; raises InvalidRequest for a model that cannot do this."""
        meant = self.client.model_for(model, ability).name
        exchange_of(request.scope).model = meant  # known to be served: labels hold no text that a caller made up
        return Terms(
            timeout_s(request, self._settings.deadlines),
            meant,
            truncation,
            caller(request),
            priority(request, self._settings.http.max_priority),
        )

    async def answer(self, request: Request, asked: Awaitable[Answer[Item]]) -> Answer[Item]:
        """Wait for the answer as long as the caller does, and note what it cost."""
        async with cancelled_when_gone(request):
            made = await asked
        exchange = exchange_of(request.scope)
        exchange.items, exchange.tokens = len(made.items), made.tokens
        self._metrics.tokenise_s.labels(made.model).observe(made.timings.tokenise_s)
        return made


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


def json_answer(content: Any, timings: CallTimings) -> Response:
    """Return an answer of numbers as JSON, with the time it took."""
    headers = {"server-timing": server_timing(timings)}
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), 200, headers, "application/json")


def answering(route: str, endpoint: Endpoint, render: Callable[[Fault], Response]) -> Endpoint:
    """Wrap an endpoint so that every error is answered as `render` draws it; the outermost handler."""

    async def answer(request: Request) -> Response:
        exchange_of(request.scope).route = route
        try:
            return await endpoint(request)
        except (ClientDisconnect, ClientGone):
            return render(describe(ClientGone()))
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the caller gets an answer
            fault = describe(error)
            exchange_of(request.scope).code, exchange_of(request.scope).reason = fault.code, fault.reason
            if fault.code == "internal_error":
                _log.exception("request %s failed", exchange_of(request.scope).request_id)
            return render(fault)

    return answer


async def read_json(request: Request, most: int) -> bytes:
    """Read a JSON body of at most so many bytes, counted as they arrive."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpFault(415, "unsupported_media_type", f"send application/json, not {kind[:100]}", "Content-Type")
    return await read_body(request, most)


async def read_body(request: Request, most: int) -> bytes:
    """Read a body of at most so many bytes, counted as they arrive."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large(most)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_large(most)
    return bytes(body)


def timeout_s(request: Request, deadlines: DeadlineConfig) -> float:
    """Return how long the caller will wait: its header, else the default."""
    told = request.headers.get(TIMEOUT_HEADER)
    if told is None:
        return deadlines.default_timeout_s
    most = round(deadlines.max_timeout_s * 1000)
    if not (told.isascii() and told.isdecimal() and 1 <= int(told[:10]) <= most):
        raise HttpFault(400, "invalid_request", f"must be whole milliseconds from 1 to {most}", "X-Request-Timeout-Ms")
    return int(told[:10]) / 1000


def priority(request: Request, most: int) -> int:
    """Return the call's class: 0, or what its header says, up to the highest that anybody gets; higher runs earlier."""
    told = request.headers.get(PRIORITY_HEADER, "0")
    if not _PRIORITY.fullmatch(told):
        raise HttpFault(400, "invalid_request", "must be a whole number from -9 to 9", "X-Request-Priority")
    return min(int(told), most)


def caller(request: Request) -> str:
    """Return who calls; without keys, callers are told apart by their address."""
    return request.client.host if request.client else ""


@asynccontextmanager
async def cancelled_when_gone(request: Request) -> AsyncIterator[None]:
    """End the work inside when the caller closes the connection; call it after the body has been read."""
    work = asyncio.current_task()
    watch: asyncio.Future[Message] = asyncio.ensure_future(request.receive())
    gone = False

    def cancel(done: asyncio.Future[Message]) -> None:
        nonlocal gone
        if not done.cancelled() and work is not None:
            gone = True
            work.cancel()

    watch.add_done_callback(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if gone and work is not None:
            work.uncancel()
            raise ClientGone from None
        raise
    finally:
        watch.remove_done_callback(cancel)
        watch.cancel()


def too_large(most: int) -> HttpFault:
    """Return the fault of a body that is larger than so many bytes."""
    return HttpFault(413, "body_too_large", f"the body is larger than {most} bytes")
