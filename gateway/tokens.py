"""
Whose token this is: a JWT of one issuer, for one audience, whose claim names a caller of the key file.

A token says who calls, never what they may: that stands with the caller, where it can be changed at once.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jwt

from gateway.caller import Caller, Grant
from gateway.config import OidcConfig
from gateway.jwks import Keys, SigningKey

_LONGEST: Final = 8192  # characters of a token
_LONGEST_SUBJECT: Final = 100
_LEEWAY_S: Final = 30  # by which clocks may differ
_MOST_KNOWN: Final = 4096  # tokens that are remembered, so that a hot caller's signature is checked once
_REQUIRED: Final = ["exp", "iss", "aud"]  # nbf and iat are checked where they are: many issuers send no nbf


@dataclass(frozen=True, slots=True)
class _Known:
    """What a token said whose signature was good: signed by which key, who, and until when (seconds since 1970)."""

    kid: str
    key: SigningKey
    name: str
    subject: str
    ends: float


class Tokens:
    """The tokens of an issuer."""

    def __init__(
        self,
        oidc: OidcConfig,
        keys: Keys,
        grant: Callable[[str], Grant | None],
        now: Callable[[], float] = time.time,
        most_known: int = _MOST_KNOWN,
    ) -> None:
        """Take the issuer's keys, and what says which callers there are and what they may."""
        self._oidc = oidc
        self._keys = keys
        self._grant = grant
        self._now = now
        self._most_known = most_known
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    async def caller(self, shown: str) -> Caller | str:
        """Return whose token this is, or why it opens nothing: for the audit log, with no word of the token."""
        if shown.count(".") != 2 or len(shown) > _LONGEST:  # noqa: PLR2004
            return ""
        digest = hashlib.sha256(shown.encode()).digest()
        known = self._known.get(digest)
        if known is None or self._keys.held(known.kid) is not known.key:
            self._known.pop(digest, None)
            try:
                known = await self._checked(shown)
            except jwt.PyJWTError as err:
                return type(err).__name__
            self._keep(digest, known)
        if self._now() >= known.ends:
            del self._known[digest]
            return jwt.ExpiredSignatureError.__name__
        grant = self._grant(known.name)
        if grant is None:
            return "UnknownCaller"
        return Caller(known.name, "", grant, known.subject)

    async def _checked(self, shown: str) -> _Known:
        """Check it whole; raises PyJWTError. Of its head only the id of the key is believed to be one."""
        kid = jwt.get_unverified_header(shown).get("kid")
        key = await self._keys.find(kid) if isinstance(kid, str) else None
        if key is None:
            raise jwt.InvalidKeyError
        claims = jwt.decode(
            shown,
            key.key,
            algorithms=key.algorithms,
            audience=self._oidc.audience,
            issuer=self._oidc.issuer,
            leeway=_LEEWAY_S,
            options={"require": _REQUIRED},
        )
        name = _text(claims, self._oidc.caller_claim)
        return _Known(str(kid), key, name, _printable(_text(claims, "sub")), int(claims["exp"]) + _LEEWAY_S)

    def _keep(self, digest: bytes, known: _Known) -> None:
        self._known[digest] = known
        if len(self._known) > self._most_known:
            self._known.popitem(last=False)


def _text(claims: dict[str, Any], name: str) -> str:
    found = claims.get(name)
    return found if isinstance(found, str) else ""


def _printable(subject: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in subject[:_LONGEST_SUBJECT])
