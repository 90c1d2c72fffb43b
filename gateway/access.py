"""
Who may in: every path needs a key or a token but those of the probes, known or not, before anything else is done.

It looks at the path that routes are found by, never at a URL made of the Host header, and reads no body.
"""

import re
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, cast

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.allowance import Account, Accounts, Left, Now, Refused, fields, standings
from gateway.audit import Audit
from gateway.caller import Caller, Grant
from gateway.errors import Fault
from gateway.keyring import Keyring
from gateway.shared_allowance import SharedAccounts
from gateway.telemetry import exchange_of, header

if TYPE_CHECKING:
    from gateway.tokens import Tokens  # its home imports cryptography

_KEY_HEADER: Final = b"x-api-key"
_BEARER: Final = re.compile(r"bearer +(\S+) *", re.IGNORECASE | re.ASCII)
_ID: Final = re.compile(r"hr_([0-9a-f]{16})_.*", re.ASCII | re.DOTALL)
_CHALLENGE: Final = 'Bearer realm="headrace"'
_NO_KEY: Final = Fault(401, "invalid_api_key", "needs a valid key, as Authorization: Bearer KEY or x-api-key: KEY")
_FORBIDDEN: Final = 403

Draw = Callable[[str, Fault], Response]
"""A path and what is wrong -> an answer in the dialect that this path speaks."""


class Access:
    """ASGI middleware: who shows no key, gets nothing; who shows one, no more than its grant."""

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        audit: Audit,
        *,
        open_paths: Collection[str],
        draw: Draw,
        shared: SharedAccounts | None = None,
        tokens: "Tokens | None" = None,
    ) -> None:
        """
        Wrap the application; `open_paths` are for everybody.

        `shared` counts limits over all replicas, `tokens` knows what opens beside keys.
        """
        self._app = app
        self._keyring = keyring
        self._audit = audit
        self._open = frozenset(open_paths)
        self._draw = draw
        self._shared = shared
        self._tokens = tokens
        self._accounts = Accounts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        shown, exchange = _shown(scope), exchange_of(scope)
        caller, why = await self._who(shown)
        exchange.caller = caller
        if caller is None:
            exchange.code = _NO_KEY.code
            self._audit.refused(scope, exchange, _id(shown), why)
            await self._answer(_NO_KEY, {"www-authenticate": _CHALLENGE}, scope, receive, send)
            return
        try:
            await self._admit(caller, scope, receive, send)
        finally:
            if exchange.action or exchange.status == _FORBIDDEN:
                self._audit.ended(scope, exchange)

    async def _who(self, shown: str) -> tuple[Caller | None, str]:
        """Return whose key or token this is, or None and what is wrong with the token."""
        caller = self._keyring.caller(shown)
        if caller is not None or self._tokens is None:
            return caller, ""
        found = await self._tokens.caller(shown)
        return (None, found) if isinstance(found, str) else (found, "")

    async def _admit(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a caller within its limits."""
        if not caller.grant.limited:
            await self._app(scope, receive, send)
            return
        account, exchange = self._accounts.of(caller, now()), exchange_of(scope)
        refused = account.refusal(now())
        if refused is not None:
            await self._refuse(refused, scope, receive, _Telling(caller.grant, account.left, send))
            return
        with account.call(now, lambda: exchange.tokens):
            if self._shared is None:
                await self._app(scope, receive, _Telling(caller.grant, account.left, send))
            else:
                await self._share(self._shared, account, scope, receive, send)

    async def _share(
        self, shared: SharedAccounts, account: Account, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a caller within its limits over all replicas, if they can be asked."""
        exchange = exchange_of(scope)
        caller = cast("Caller", exchange.caller)
        entered = await shared.enter(caller, account.call_s)
        if entered is None:
            await self._app(scope, receive, _Telling(caller.grant, account.left, send))
            return
        telling = _Telling(caller.grant, lambda now: entered.left, send)
        if entered.refused is not None:
            await self._refuse(entered.refused, scope, receive, telling)
            return
        try:
            await self._app(scope, receive, telling)
        finally:
            await shared.leave(caller, entered.lease, exchange.tokens)

    async def _refuse(self, refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
        fault, exchange = _over(refused.reason, refused.retry_after_s), exchange_of(scope)
        exchange.code, exchange.reason = fault.code, fault.reason
        await self._answer(fault, {}, scope, receive, send)

    async def _answer(self, fault: Fault, headers: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        response = self._draw(scope["path"], fault)
        response.headers.update(headers)
        await response(scope, receive, send)


class Speaking:
    """An application for those whose grant has its dialect."""

    def __init__(self, app: ASGIApp, dialect: str, render: Callable[[Fault], Response]) -> None:
        """Wrap the routes' application of one dialect, which draws its own refusals."""
        self._app = app
        self._dialect = dialect
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        exchange = exchange_of(scope)
        if exchange.caller is None or exchange.caller.may_speak(self._dialect):
            await self._app(scope, receive, send)
            return
        exchange.code = "forbidden"
        fault = Fault(_FORBIDDEN, exchange.code, f"this key may not call in the dialect {self._dialect}")
        await self._render(fault)(scope, receive, send)


class _Telling:
    """Puts what is left of a caller's limits on the answer, when it starts."""

    def __init__(self, grant: Grant, left: Callable[[Now], Left], send: Send) -> None:
        self._grant = grant
        self._left = left
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            moment = now()
            told = standings(self._grant, self._left(moment), moment)
            message["headers"] = [*message["headers"], *fields(told)]
        await self._send(message)


def is_admin(scope: Scope) -> bool:
    """Whether this exchange may change what is served: nobody may without a key."""
    caller = exchange_of(scope).caller
    return caller is not None and caller.grant.admin


def now() -> Now:
    """Return the moment, on both clocks."""
    return Now(time.monotonic(), time.time())


def _shown(scope: Scope) -> str:
    """Return what the call shows as its key; its own header before Authorization, which clients fill by themselves."""
    own = (header(scope, _KEY_HEADER) or "").strip()
    if own:
        return own
    bearer = _BEARER.fullmatch(header(scope, b"authorization") or "")
    return bearer[1] if bearer else ""


def _id(shown: str) -> str:
    """Return the id of a key that opens nothing, to tell which of the old ones is still in use."""
    found = _ID.fullmatch(shown)
    return found[1] if found else ""


def _over(reason: str, retry_after_s: float) -> Fault:
    words = reason.replace("caller_", "").replace("_", " ")
    return Fault(429, "rate_limited", f"this key's caller is over its limit: {words}", None, retry_after_s, reason)
