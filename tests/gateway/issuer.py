"""An issuer of tokens: its keys, what it signs, and its documents over a real socket."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "headrace"
DISCOVERY, JWKS = "/.well-known/openid-configuration", "/keys"


@dataclass(frozen=True)
class Signer:
    """A private key, its id, and the algorithm it signs with."""

    kid: str
    key: Any
    algorithm: str = "RS256"

    def jwk(self, **others: object) -> dict[str, object]:
        """What an issuer publishes of it."""
        public = self.key.public_key()
        kind: Any = {"E": ECAlgorithm, "R": RSAAlgorithm, "P": RSAAlgorithm}.get(self.algorithm[0], OKPAlgorithm)
        kind = OKPAlgorithm if self.algorithm == "EdDSA" else kind
        return {**kind.to_jwk(public, as_dict=True), "kid": self.kid, "use": "sig"} | others

    def pem(self) -> bytes:
        """Its public part, as a text that an HMAC could be made with."""
        return bytes(self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def sign(self, claims: dict[str, object], **head: object) -> str:
        """A token."""
        return jwt.encode(claims, self.key, self.algorithm, {"kid": self.kid} | head)


def rsa_signer(kid: str = "first", algorithm: str = "RS256", bits: int = 2048) -> Signer:
    """A new one."""
    return Signer(kid, rsa.generate_private_key(65537, bits), algorithm)


def signers() -> list[Signer]:
    """One of each kind that may sign."""
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    one = rsa_signer("RS256")
    return [
        one,
        *(Signer(each, one.key, each) for each in ("RS512", "PS256", "PS512")),
        *(Signer(name, ec.generate_private_key(curve), name) for name, curve in curves.items()),
        Signer("EdDSA", ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ]


@dataclass
class Issuer:
    """What is served, and what was asked for; while the gate is closed nothing is answered."""

    url: str = ""
    documents: dict[str, bytes] = field(default_factory=dict)
    status: bytes = b"200 OK"
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    def publish(self, *keys: dict[str, object], issuer: str = "") -> None:
        """Serve these keys, and where they are."""
        self.documents[JWKS] = msgspec.json.encode({"keys": keys})
        self.documents[DISCOVERY] = msgspec.json.encode({"issuer": issuer or self.url, "jwks_uri": self.url + JWKS})

    def claims(self, **others: object) -> dict[str, object]:
        """What a good token of `search` says; None: nothing."""
        now = int(time.time())
        said = {"iss": self.url, "aud": AUDIENCE, "sub": "search", "exp": now + 600, "nbf": now - 1, "iat": now - 1}
        return {name: value for name, value in (said | others).items() if value is not None}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one call on a connection."""
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            self.asked.append(path)
            self.waiting.set()
            await self.gate.wait()
            body = self.documents.get(path, b"")
            writer.write(
                b"HTTP/1.1 %s\r\nLocation: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                % (self.status, (self.url + JWKS).encode(), len(body))
                + body
            )
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def issuing(*keys: dict[str, object], tls: ssl.SSLContext | None = None) -> AsyncIterator[Issuer]:
    """An issuer that publishes these keys."""
    issuer = Issuer()
    issuer.gate.set()
    server = await asyncio.start_server(issuer.answer, "127.0.0.1", 0, ssl=tls)
    issuer.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    issuer.publish(*keys)
    try:
        yield issuer
    finally:
        issuer.gate.set()
        server.close()
