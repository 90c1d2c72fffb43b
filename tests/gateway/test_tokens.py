import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest

from gateway import keyfile
from gateway.caller import Caller, Grant
from gateway.config import AccessConfig, OidcConfig, Settings
from gateway.jwks import KeysOfFile, KeysOfIssuer, SigningKey
from gateway.keyfile import Keyfile
from gateway.tokens import Tokens
from gateway.watched import Unreadable
from tests.gateway.fakes import FakeEngine, Gateway, gateway, ready
from tests.gateway.issuer import AUDIENCE, JWKS, Issuer, Signer, issuing, rsa_signer, signers
from tests.gateway.keys import bearer, key_for

pytestmark = pytest.mark.anyio
WORDS = {"input": "w1 w2"}
KEY, STRANGER = rsa_signer("first"), rsa_signer("first")
KINDS = signers()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def known(file: Path, name: str = "search", **rights: Any) -> None:
    """Write a caller without a key into the file."""
    with keyfile.changing(file) as content:
        keyfile.write(file, Keyfile({**content.callers, name: Grant(**rights)}, content.keys))


def trusting(file: Path, oidc: OidcConfig) -> Settings:
    return Settings(access=AccessConfig(keys=file, audit_log=file.with_suffix(".audit"), oidc=oidc))


@asynccontextmanager
async def open_to(
    issuer: Issuer, file: Path, engine: FakeEngine | None = None, claim: str = "sub"
) -> AsyncIterator[Gateway]:
    """A gateway that takes this issuer's tokens."""
    if not file.exists():
        known(file)
    async with ready(engine, trusting(file, OidcConfig(issuer.url, AUDIENCE, None, claim))) as subject:
        yield subject


def audited(file: Path) -> list[dict[str, object]]:
    return [msgspec.json.decode(line) for line in file.with_suffix(".audit").read_text().splitlines()]


def part(content: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(content)).rstrip(b"=").decode()


def hmac_token(issuer: Issuer, secret: bytes) -> str:
    """A token that is signed with what everybody may know; libraries refuse to make it."""
    signed = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': 'first'})}.{part(issuer.claims())}"
    digest = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


@pytest.mark.parametrize("signer", KINDS, ids=[each.algorithm for each in KINDS])
async def test_a_token_opens_as_the_caller_that_its_claim_names(file: Path, signer: Signer) -> None:
    async with issuing(*(each.jwk() for each in KINDS)) as issuer, open_to(issuer, file) as subject:
        token = replace(
            signer, kid="RS256" if signer.algorithm[1] == "S" and signer.algorithm[0] in "RP" else signer.kid
        )
        answer = await subject.embed(WORDS, **bearer(token.sign(issuer.claims())))

    assert answer.status_code == 200
    assert [call.caller for call in subject.engine.submitted] == ["search"]


async def test_keys_go_on_opening_beside_tokens(file: Path) -> None:
    key = key_for(file)

    async with issuing(KEY.jwk()) as issuer, open_to(issuer, file) as subject:
        statuses = [
            (await subject.embed(WORDS, **headers)).status_code
            for headers in (bearer(key), {"x-api-key": key}, bearer(KEY.sign(issuer.claims())))
        ]

    assert statuses == [200, 200, 200]


async def test_a_token_has_the_rights_of_its_caller_as_the_key_file_has_them_now(file: Path) -> None:
    known(file, "team", models={"mine"}, in_flight=1)

    async with (
        issuing(KEY.jwk()) as issuer,
        open_to(issuer, file, FakeEngine(["mine", "theirs"]), "azp") as subject,
    ):
        token = bearer(KEY.sign(issuer.claims(azp="team", sub="user-5")))
        mine = await subject.embed({**WORDS, "model": "mine"}, **token)
        theirs = await subject.embed({**WORDS, "model": "theirs"}, **token)

    assert (mine.status_code, theirs.status_code) == (200, 403)
    assert mine.headers["ratelimit-policy"].startswith('"in-flight";q=1')
    assert [(line["subject"], line["caller"]) for line in audited(file)] == [("user-5", "team")]


WRONG_CLAIMS: dict[str, dict[str, object]] = {
    "another audience": {"aud": "other"},
    "several other audiences": {"aud": ["other", "headrace2"]},
    "no audience": {"aud": None},
    "another issuer": {"iss": "https://other.example"},
    "an issuer with more": {"iss": "{}/"},
    "no issuer": {"iss": None},
    "expired": {"exp": int(time.time()) - 60},
    "no end": {"exp": None},
    "an end that is no number": {"exp": "soon"},
    "an end without end": {"exp": float("inf")},
    "not yet": {"nbf": int(time.time()) + 3600},
    "made in the future": {"iat": int(time.time()) + 3600},
    "nobody": {"sub": "nobody"},
    "no subject": {"sub": None},
}


@pytest.mark.parametrize("wrong", WRONG_CLAIMS.values(), ids=WRONG_CLAIMS)
async def test_a_token_that_says_something_else_opens_nothing(file: Path, wrong: dict[str, object]) -> None:
    async with issuing(KEY.jwk()) as issuer, open_to(issuer, file) as subject:
        said = {name: issuer.url + "/" if told == "{}/" else told for name, told in wrong.items()}
        answers = [await subject.embed(WORDS, **bearer(KEY.sign(issuer.claims(**said)))) for _ in range(2)]
        nothing = await subject.embed(WORDS)

    assert [answer.status_code for answer in answers] == [401, 401]
    assert {answer.content for answer in answers} == {nothing.content}
    assert answers[0].headers["www-authenticate"] == 'Bearer realm="headrace"'
    assert subject.engine.submitted == []


async def test_clocks_may_differ_by_half_a_minute(file: Path) -> None:
    now = int(time.time())

    async with issuing(KEY.jwk()) as issuer, open_to(issuer, file) as subject:
        statuses = [
            (await subject.embed(WORDS, **bearer(KEY.sign(issuer.claims(**claims))))).status_code
            for claims in ({"exp": now - 15}, {"nbf": now + 15}, {"nbf": None, "iat": None}, {"aud": ["x", AUDIENCE]})
        ]

    assert statuses == [200] * 4


async def test_no_trick_with_the_head_of_a_token_opens(file: Path) -> None:
    async with issuing(KEY.jwk()) as issuer, open_to(issuer, file) as subject:
        said = issuer.claims()
        issuer.documents["/evil"] = msgspec.json.encode({"keys": [STRANGER.jwk()]})
        good = KEY.sign(said)
        unsigned = jwt.encode(said, "", "none", {"kid": "first"})
        tricks = {
            "HS256 with the public key": hmac_token(issuer, KEY.pem()),
            "HS256 with the document": hmac_token(issuer, issuer.documents[JWKS]),
            "HS256 with nothing": hmac_token(issuer, b""),
            "none": unsigned,
            "none, with a signature": unsigned + good.rpartition(".")[2],
            "None": f"{part({'alg': 'None', 'kid': 'first'})}.{part(said)}.",
            "no algorithm": f"{part({'kid': 'first'})}.{part(said)}.{good.rpartition('.')[2]}",
            "another kind's algorithm": Signer("first", KINDS[4].key, "ES256").sign(said),
            "a stranger's key": STRANGER.sign(said),
            "jku": STRANGER.sign(said, jku=issuer.url + "/evil"),
            "x5u": STRANGER.sign(said, x5u=issuer.url + "/evil"),
            "jwk": STRANGER.sign(said, jwk=STRANGER.jwk()),
            "an unknown id": KEY.sign(said, kid="unknown"),
            "a path as id": KEY.sign(said, kid="../../dev/null"),
            "no id": jwt.encode(said, KEY.key, "RS256"),
            "what must be understood": KEY.sign(said, crit=["exp"], exp=1),
            "no signature": good.rpartition(".")[0] + ".",
            "other words": f"{good.split('.')[0]}.{part(issuer.claims(exp=1 << 40))}.{good.split('.')[2]}",
            "four parts": good + ".x",
            "nothing": "..",
            "deep": f"{base64.urlsafe_b64encode(b'[' * 5000).decode()}.x.x",
            "no JSON": "a.b.c",
            "long": KEY.sign(issuer.claims(more="x" * 9000)),
        }
        opened = [
            name for name, token in tricks.items() if (await subject.embed(WORDS, **bearer(token))).status_code != 401
        ]
        control = await subject.embed(WORDS, **bearer(good))

    assert opened == []
    assert control.status_code == 200
    assert set(issuer.asked) == {"/.well-known/openid-configuration", JWKS}


async def test_what_a_token_says_is_in_no_log_but_for_its_subject(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    known(file, admin=True, dialects={"tei"})
    caplog.set_level("DEBUG")

    async with issuing(KEY.jwk()) as issuer, open_to(issuer, file, claim="name") as subject:
        claims = issuer.claims(name="search", sub="user\n\x1b[31m" + "y" * 500, email="someone@example.com")
        token, expired = KEY.sign(claims), KEY.sign({**claims, "exp": 1})
        await subject.embed(WORDS, **bearer(token))
        await subject.embed(WORDS, **bearer(expired))

    refused, bad = audited(file)
    everything = caplog.text + file.with_suffix(".audit").read_text()
    assert refused["subject"] == "user??[31m" + "y" * 90
    assert (refused["caller"], refused["outcome"]) == ("search", "forbidden")
    assert (bad["outcome"], bad["why"]) == ("invalid_api_key", "ExpiredSignatureError")
    assert "subject" not in bad
    assert not [word for word in (*token.split("."), *expired.split("."), "someone@") if word in everything]


async def test_others_are_answered_while_the_issuer_is_not(file: Path) -> None:
    key = key_for(file)

    async with issuing(KEY.jwk()) as issuer, open_to(issuer, file) as subject:
        issuer.gate.clear()
        waits = asyncio.create_task(subject.embed(WORDS, **bearer(KEY.sign(issuer.claims()))))
        await issuer.waiting.wait()
        meanwhile = await subject.embed(WORDS, **bearer(key))
        waited = not waits.done()
        issuer.gate.set()
        answer = await waits

    assert (meanwhile.status_code, waited, answer.status_code) == (200, True, 200)


async def test_an_issuer_that_is_away_at_the_start_stops_nothing_but_its_tokens(file: Path) -> None:
    key = key_for(file)

    async with issuing(KEY.jwk()) as issuer:
        issuer.status = b"503 Away"
        async with open_to(issuer, file) as subject:
            token = await subject.embed(WORDS, **bearer(KEY.sign(issuer.claims())))
            by_key = await subject.embed(WORDS, **bearer(key))

    assert (token.status_code, by_key.status_code) == (401, 200)


async def test_keys_of_a_file_need_no_issuer_and_one_that_cannot_be_read_stops_the_start(
    file: Path, tmp_path: Path
) -> None:
    known(file)
    jwks, oidc = tmp_path / "jwks", OidcConfig("https://issuer.example", AUDIENCE, tmp_path / "jwks")
    with pytest.raises(Unreadable, match="jwks"):
        gateway(settings=trusting(file, oidc))
    jwks.write_bytes(msgspec.json.encode({"keys": [KEY.jwk()]}))

    async with ready(settings=trusting(file, oidc)) as subject:
        claims = Issuer("https://issuer.example").claims()
        answer = await subject.embed(WORDS, **bearer(KEY.sign(claims)))

    assert answer.status_code == 200


class Counted(KeysOfFile):
    """Keys, and how often one was taken to check a signature."""

    checked = 0

    async def find(self, kid: str) -> SigningKey | None:
        self.checked += 1
        return await super().find(kid)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keys(tmp_path: Path) -> Counted:
    (tmp_path / "jwks").write_bytes(msgspec.json.encode({"keys": [KEY.jwk()]}))
    return Counted(tmp_path / "jwks")


OIDC, GRANTS = OidcConfig("https://issuer.example", AUDIENCE), {"search": Grant()}


def good(**others: object) -> str:
    return KEY.sign(Issuer(OIDC.issuer).claims(**others))


async def test_a_token_that_was_good_is_not_checked_again_until_it_ends(keys: Counted) -> None:
    clock, end = Clock(), int(time.time()) + 600
    clock.now = end - 600.0
    tokens, token = Tokens(OIDC, keys, GRANTS.get, clock), good(exp=end)

    found = [await tokens.caller(token) for _ in range(5)]
    checked = keys.checked
    clock.now = end + 29.0
    late = await tokens.caller(token)
    clock.now = end + 30.0
    after = await tokens.caller(token)

    assert found == [Caller("search", "", Grant(), "search")] * 5
    assert checked == keys.checked == 1
    assert isinstance(late, Caller)
    assert after == "ExpiredSignatureError"


async def test_a_caller_who_is_taken_out_of_the_file_is_refused_at_once(keys: Counted) -> None:
    grants = dict(GRANTS)
    tokens, token = Tokens(OIDC, keys, grants.get), good()

    first = await tokens.caller(token)
    del grants["search"]

    assert isinstance(first, Caller)
    assert await tokens.caller(token) == "UnknownCaller"


async def test_only_so_many_tokens_are_remembered_and_none_that_was_wrong(keys: Counted) -> None:
    tokens, most = Tokens(OIDC, keys, GRANTS.get, most_known=2), [good(jti=str(number)) for number in range(3)]

    for token in [*most, most[2], most[0]]:
        await tokens.caller(token)
    for _ in range(2):
        await tokens.caller(good(aud="other"))

    assert keys.checked == 3 + 1 + 2


async def test_tokens_of_a_key_that_is_withdrawn_open_nothing_though_they_were_remembered() -> None:
    clock = Clock()

    async with issuing(KEY.jwk()) as issuer:
        keys = KeysOfIssuer(issuer.url, None, clock)
        tokens = Tokens(OidcConfig(issuer.url, AUDIENCE), keys, GRANTS.get)
        token, new = KEY.sign(issuer.claims()), Signer("second", STRANGER.key)
        before = await tokens.caller(token)
        issuer.publish(new.jwk())
        clock.now = 10.0
        rotated = await tokens.caller(new.sign(issuer.claims()))
        after = await tokens.caller(token)
        await keys.close()

    assert isinstance(before, Caller)
    assert isinstance(rotated, Caller)
    assert after == "InvalidKeyError"
