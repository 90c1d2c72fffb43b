"""
gRPC: each call becomes an exchange with the application, so that limits, deadlines, telemetry and errors are the same.

Knows no messages, only their bytes. An answer's status says how a call ended, or its header `grpc-status: 0` that it
ended well whatever its status; the body of a failed one is its sentence.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any, Final
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from starlette.types import ASGIApp, Message, Scope

from gateway.call import TIMEOUT_HEADER
from gateway.config import DeadlineConfig, HttpConfig
from gateway.kserve_rpc import GRPC, METHODS, SERVICE

_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_FRAMING: Final = frozenset({"connection", "content-length", "content-type", "grpc-status"})  # HTTP/1.1's, or ours
_PUSHBACK: Final = "grpc-retry-pushback-ms"  # what gRPC's own clients read when they try again
_LINGER_S: Final = 0.2  # at shutdown, for calls already on their way
_CONNECTION_AGE_S: Final = 300.0  # then clients connect again, and find replicas that are new


@dataclass(slots=True)
class _Answer:
    """What the application said."""

    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def code(self) -> grpc.StatusCode:
        if self.status == 200 or "grpc-status" in self.headers:  # noqa: PLR2004
            return grpc.StatusCode.OK
        return _CODES.get(self.status, grpc.StatusCode.UNKNOWN)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        told = {name: value for name, value in self.headers.items() if name not in _FRAMING}
        if "retry-after-ms" in told:
            told[_PUSHBACK] = told["retry-after-ms"]
        return tuple(told.items())


class Rpc:
    """A gRPC server before an application, with the health service and reflection."""

    def __init__(
        self,
        app: ASGIApp,
        http: HttpConfig,
        deadlines: DeadlineConfig,
        *,
        connection_age_s: float = _CONNECTION_AGE_S,
    ) -> None:
        """Take the application; a deadline beyond the longest timeout counts as that."""
        self._app = app
        self._http = http
        self._max_timeout_s = deadlines.max_timeout_s
        self._options = (
            ("grpc.max_receive_message_length", http.max_body_bytes),  # of the message, decompressed
            ("grpc.max_connection_age_ms", round(connection_age_s * 1000)),
            ("grpc.so_reuseport", 0),  # a port that is taken should show
        )
        self._health = health.aio.HealthServicer()
        self._leaving = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> int:
        """Listen, and return the port; raises OSError."""
        self._server = grpc.aio.server(options=self._options)
        handlers = {name: self._handler(name, streams=streams) for name, streams in METHODS.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        await self._tell(serving=False)
        host, port = self._http.host, self._http.grpc_port or 0
        try:
            bound = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError:
            raise OSError("the address is taken, or not of this machine") from None
        await self._server.start()
        return bound

    async def ready(self) -> None:
        """Tell the health service that calls are taken."""
        await self._tell(serving=True)

    async def drain(self) -> None:
        """Tell the health service that this replica is going; calls are still taken and answered."""
        await self._tell(serving=False)

    async def stop(self, grace_s: float) -> None:
        """
        Take no more calls, and answer those that were taken; what still runs after the grace is cut off.

        For a moment calls are refused one by one: those that come in the instant of gRPC's own stop are cancelled, and
        nobody tries again what was cancelled.
        """
        self._leaving = True
        await asyncio.sleep(_LINGER_S)
        stopping = asyncio.create_task(self._server.stop(grace_s))
        await asyncio.wait({stopping}, timeout=_LINGER_S)  # a second stop in the same moment ends the process in gRPC
        idle = asyncio.create_task(self._idle.wait())
        await asyncio.wait({stopping, idle}, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        await self._server.stop(0)  # those who watch the health service would stay
        await stopping

    async def _tell(self, *, serving: bool) -> None:
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            await self._health.set(service, status)

    def _handler(self, method: str, *, streams: bool) -> Any:
        path = f"/{SERVICE}/{method}"
        if streams:
            return grpc.stream_stream_rpc_method_handler(partial(self._stream, path))
        return grpc.unary_unary_rpc_method_handler(partial(self._call, path))

    async def _call(self, path: str, message: bytes, context: Any) -> bytes:
        """Answer one call."""
        await self._begin(context)
        return await self._answered(path, message, context)

    async def _answered(self, path: str, message: bytes, context: Any) -> bytes:
        answer = await self._exchange(path, message, context)
        if answer.code is not grpc.StatusCode.OK:
            await context.abort(answer.code, answer.body.decode(), answer.metadata)
        context.set_trailing_metadata(answer.metadata)
        return answer.body

    async def _stream(self, path: str, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer the messages of a stream one after the other."""
        await self._begin(context)
        async for message in messages:
            yield await self._answered(path, message, context)

    async def _exchange(self, path: str, message: bytes, context: Any) -> _Answer:
        """Ask the application; gRPC cancels this when the caller goes or its deadline passes."""
        answer, unread = _Answer(), [message]

        async def receive() -> Message:
            if not unread:
                await asyncio.Future()
            return {"type": "http.request", "body": unread.pop(), "more_body": False}

        async def send(part: Message) -> None:
            if part["type"] == "http.response.start":
                answer.status = part["status"]
                answer.headers = {str(name, "latin-1"): str(value, "latin-1") for name, value in part["headers"]}
            else:
                answer.body += part.get("body", b"")

        await self._app(self._scope(path, context), receive, send)
        return answer

    async def _begin(self, context: Any) -> None:
        """Take a call, and count it until its answer has been sent, not only made."""
        if self._leaving:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        self._running += 1
        self._idle.clear()
        context.add_done_callback(self._ended)

    def _ended(self, context: Any) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    def _scope(self, path: str, context: Any) -> Scope:
        """Describe a call as ASGI does; its own deadline goes before a header that says the same."""
        headers = [(b"content-type", GRPC.encode())]
        left_s = context.time_remaining()
        if left_s is not None:
            milliseconds = ceil(min(left_s, self._max_timeout_s) * 1000)
            headers.append((TIMEOUT_HEADER, b"%d" % max(1, milliseconds)))
        for name, value in context.invocation_metadata():
            headers.append((name.encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1")))
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": _client(context.peer()),
            "server": None,
        }


def _client(peer: str) -> tuple[str, int] | None:
    """Read an address such as `ipv4:127.0.0.1:4000` or `ipv6:%5B::1%5D:4000`; None where it is another kind."""
    kind, _, place = unquote(peer).partition(":")
    host, _, port = place.rpartition(":")
    return (host.strip("[]"), int(port)) if kind in {"ipv4", "ipv6"} else None
