"""
The public keys that tokens are signed with, by their ids: of a file, or asked of their issuer beside the path of calls.

Which algorithms a key may check stands here, and never in a token: asymmetric ones alone. What cannot be had changes
nothing: while the issuer is away, the keys that were had last go on.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gateway.kinds import secure_url
from gateway.watched import Unreadable, Watched

_log = logging.getLogger(__name__)

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_RSA_BITS: Final = range(2048, 8193)
_CURVES: Final = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}
_DISCOVERY: Final = "/.well-known/openid-configuration"
_LARGEST_BYTES: Final = 256 * 1024  # of a document; those of the large issuers have 2 to 20 KB
_ANSWER_S: Final = 5.0  # for all that is asked of the issuer at one time
_AGAIN_S: Final = 10.0  # at least, between one time and the next, whatever ids calls come with
_OLD_S: Final = 300.0  # then the issuer is asked again, so that keys it withdraws are forgotten


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key, and the algorithms whose signatures it may check."""

    key: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
    algorithms: tuple[str, ...]


class _Jwk(msgspec.Struct, frozen=True):
    """What is looked at of a key, before a library reads it."""

    kid: str
    use: str = "sig"
    key_ops: tuple[str, ...] = ("verify",)
    alg: str | None = None


class _Set(msgspec.Struct, frozen=True):
    keys: tuple[dict[str, object], ...]


class _Discovered(msgspec.Struct, frozen=True):
    issuer: str
    jwks_uri: str


class KeysOfFile:
    """Keys of a JWKS file, read again once it changes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read it; raises Unreadable."""
        self._held = Watched([path], lambda: _read(path), clock=clock)

    def held(self, kid: str) -> SigningKey | None:
        """Return the key of this id."""
        return self._held.current().get(kid)

    async def find(self, kid: str) -> SigningKey | None:
        """Return the key of this id."""
        return self.held(kid)

    async def close(self) -> None:
        """Nothing is open."""


class KeysOfIssuer:
    """Keys that an issuer publishes; asked for when a call needs them, never on a timer."""

    def __init__(self, issuer: str, url: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Take where they are (None: where the issuer's discovery document says); nothing is asked yet."""
        self._issuer = issuer
        self._url = url
        self._clock = clock
        self._keys: Mapping[str, SigningKey] = {}
        self._http = httpx2.AsyncClient(timeout=_ANSWER_S, headers={"accept-encoding": "identity"})
        self._fetching: asyncio.Task[None] | None = None
        self._again_at = self._old_at = clock()

    def held(self, kid: str) -> SigningKey | None:
        """Return the key of this id, without waiting; if it is time, the issuer is asked meanwhile."""
        if self._clock() >= self._old_at:
            self._ask()
        return self._keys.get(kid)

    async def find(self, kid: str) -> SigningKey | None:
        """Return the key of this id; one that is new is waited for, but the issuer is not asked again so soon."""
        key = self.held(kid)
        if key is not None:
            return key
        self._ask()
        if self._fetching is not None:
            await asyncio.wait({self._fetching})
        return self._keys.get(kid)

    async def close(self) -> None:
        """Let go of the issuer."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})
        await self._http.aclose()

    def _ask(self) -> None:
        now = self._clock()
        if self._fetching is None and now >= self._again_at:
            self._again_at = self._old_at = now + _AGAIN_S
            self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                content = await self._get(self._url or await self._discover())
                self._keys = await asyncio.to_thread(read_keys, content)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, Unreadable) as err:
            why = str(err) if isinstance(err, Unreadable) else type(err).__name__
            _log.warning("no keys from %s: %s; going on with the %d had before", self._issuer, why, len(self._keys))
        else:
            self._old_at = self._clock() + _OLD_S
            _log.info("%d keys of tokens from %s", len(self._keys), self._issuer)
        finally:
            self._fetching = None

    async def _discover(self) -> str:
        content = await self._get(self._issuer.rstrip("/") + _DISCOVERY)
        try:
            found = msgspec.json.decode(content, type=_Discovered)
            if found.issuer != self._issuer:
                raise Unreadable("its discovery document is of another issuer")
            return secure_url(found.jwks_uri)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise Unreadable("its discovery document does not say where they are") from None

    async def _get(self, url: str) -> bytes:
        """Fetch a document; redirects are not followed, and what is compressed is not a document."""
        content = bytearray()
        async with self._http.stream("GET", url) as answer:
            if answer.status_code != 200:  # noqa: PLR2004
                raise Unreadable(f"it answered {answer.status_code}")
            async for piece in answer.aiter_raw():
                content += piece
                if len(content) > _LARGEST_BYTES:
                    raise Unreadable(f"it sent more than {_LARGEST_BYTES} bytes")
        return bytes(content)


Keys = KeysOfFile | KeysOfIssuer


def read_keys(content: bytes) -> dict[str, SigningKey]:
    """Read a JWKS; what has no id, no known kind or no public part is passed over. Raises Unreadable."""
    try:
        found = msgspec.json.decode(content, type=_Set).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unreadable("it is not a JWKS") from None
    keys: dict[str, SigningKey] = {}
    for each in found:
        try:
            told = msgspec.convert(each, _Jwk)
            key = jwt.PyJWK({name: said for name, said in each.items() if name != "alg"}).key  # by its kind
        except (msgspec.ValidationError, jwt.PyJWTError, ValueError, TypeError):
            continue
        algorithms = tuple(name for name in _algorithms(key) if told.alg in (None, name))
        if algorithms and told.use == "sig" and "verify" in told.key_ops:
            keys.setdefault(told.kid, SigningKey(key, algorithms))
    if not keys:
        raise Unreadable("it has no public key that could check a token")
    return keys


def _read(path: Path) -> dict[str, SigningKey]:
    try:
        return read_keys(path.read_bytes())
    except OSError as err:
        raise Unreadable(f"cannot read the keys of tokens in {path}: {err.strerror}") from None
    except Unreadable as err:
        raise Unreadable(f"{path}: {err}") from None


def _algorithms(key: object) -> tuple[str, ...]:
    """Say what a key may check: nothing if it is a secret or a private key, or too short."""
    match key:
        case RSAPublicKey() if key.key_size in _RSA_BITS:
            return _RSA
        case EllipticCurvePublicKey():
            return _CURVES.get(key.curve.name, ())
        case Ed25519PublicKey():
            return ("EdDSA",)
    return ()
