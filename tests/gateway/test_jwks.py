import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import RSAAlgorithm

from gateway.jwks import KeysOfFile, KeysOfIssuer, read_keys
from gateway.watched import Unreadable
from tests.gateway.certificates import Authority
from tests.gateway.issuer import DISCOVERY, JWKS, Issuer, Signer, issuing, rsa_signer, signers

pytestmark = pytest.mark.anyio
KEY = rsa_signer("first")
OTHER = Signer("second", KEY.key)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def jwks(*keys: dict[str, object]) -> bytes:
    return msgspec.json.encode({"keys": keys})


@asynccontextmanager
async def asking(issuer: Issuer, url: str | None = None, clock: Clock | None = None) -> AsyncIterator[KeysOfIssuer]:
    keys = KeysOfIssuer(issuer.url, url, clock or Clock())
    try:
        yield keys
    finally:
        await keys.close()


async def test_a_key_checks_only_what_its_kind_and_its_owner_say() -> None:
    kinds = {each.kid: each.jwk() for each in signers()}
    own = kinds["RS256"] | {"kid": "own", "alg": "PS384"}

    found = read_keys(jwks(*kinds.values(), own))

    assert set(found["RS256"].algorithms) == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    assert [found[name].algorithms for name in ("ES256", "ES384", "ES512", "EdDSA")] == [
        ("ES256",),
        ("ES384",),
        ("ES512",),
        ("EdDSA",),
    ]
    assert found["own"].algorithms == ("PS384",)


WRONG: dict[str, dict[str, object]] = {
    "a secret": {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "x", "alg": "HS256"},
    "a secret of any kind": {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "x"},
    "a private key": {**RSAAlgorithm.to_jwk(KEY.key, as_dict=True), "kid": "x", "key_ops": ["verify"]},
    "a short key": rsa_signer("x", bits=1024).jwk(),
    "another curve": Signer("x", ec.generate_private_key(ec.SECP256K1()), "ES256K").jwk(),
    "no id": KEY.jwk(kid=None),
    "an id that is no text": KEY.jwk(kid=5),
    "for encryption": KEY.jwk(use="enc"),
    "for other operations": KEY.jwk(key_ops=["encrypt"]),
    "HS256": KEY.jwk(alg="HS256"),
    "none": KEY.jwk(alg="none"),
    "of another kind": KEY.jwk(alg="ES256"),
    "no number": KEY.jwk(n="!"),
    "an unknown kind": KEY.jwk(kty="XYZ"),
    "nothing": {},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_key_that_may_not_check_tokens_is_passed_over(wrong: dict[str, object]) -> None:
    with pytest.raises(Unreadable, match="no public key"):
        read_keys(jwks(wrong))

    assert list(read_keys(jwks(wrong, KEY.jwk()))) == ["first"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"keys": 5}', b'{"keys": [5]}', b"\xff", b"[" * 100_000])
async def test_what_is_no_set_of_keys_is_refused(content: bytes) -> None:
    with pytest.raises(Unreadable):
        read_keys(content)


async def test_a_file_is_read_again_once_it_changes_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file, clock = tmp_path / "jwks", Clock()
    file.write_bytes(jwks(KEY.jwk()))
    keys = KeysOfFile(file, clock)

    first = [keys.held("first") is not None, await keys.find("second") is not None]
    file.write_bytes(jwks(OTHER.jwk()))
    clock.now = 1.0
    second = [keys.held("first") is not None, await keys.find("second") is not None]
    file.write_bytes(b"{")
    clock.now = 2.0
    third = keys.held("second") is not None

    assert (first, second, third) == ([True, False], [False, True], True)


@pytest.mark.parametrize("content", [None, b"", b'{"keys": []}'])
async def test_without_a_file_of_keys_it_does_not_start(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "jwks").write_bytes(content)

    with pytest.raises(Unreadable, match="jwks"):
        KeysOfFile(tmp_path / "jwks")


async def test_keys_are_found_from_the_issuer_s_own_document_or_where_they_are_said_to_be() -> None:
    async with issuing(KEY.jwk()) as issuer:
        async with asking(issuer) as keys:
            found = await keys.find("first")
        async with asking(issuer, issuer.url + JWKS) as keys:
            told = await keys.find("first")

    assert found is not None and told is not None
    assert issuer.asked == [DISCOVERY, JWKS, JWKS]


async def test_nothing_is_asked_before_a_token_comes_and_keys_are_then_kept() -> None:
    async with issuing(KEY.jwk()) as issuer, asking(issuer, issuer.url + JWKS) as keys:
        before = list(issuer.asked)
        for _ in range(5):
            await keys.find("first")

    assert (before, issuer.asked) == ([], [JWKS])


async def test_ids_that_nobody_has_make_one_question_in_ten_seconds() -> None:
    clock = Clock()

    async with issuing(KEY.jwk()) as issuer, asking(issuer, issuer.url + JWKS, clock) as keys:
        at_once = await asyncio.gather(*(keys.find(f"unknown{number}") for number in range(50)))
        asked = [len(issuer.asked)]
        for clock.now in (5.0, 9.9, 10.0, 10.1):
            await keys.find("unknown")
            asked.append(len(issuer.asked))

    assert at_once == [None] * 50
    assert asked == [1, 1, 1, 2, 2]


async def test_a_key_that_is_new_is_found_when_its_first_token_comes_and_one_withdrawn_is_forgotten() -> None:
    clock = Clock()

    async with issuing(KEY.jwk()) as issuer, asking(issuer, issuer.url + JWKS, clock) as keys:
        await keys.find("first")
        issuer.publish(OTHER.jwk())
        clock.now = 10.0
        new, old = await keys.find("second"), keys.held("first")

    assert new is not None
    assert old is None


async def test_keys_that_are_old_are_asked_for_again_while_they_serve() -> None:
    clock = Clock()

    async with issuing(KEY.jwk()) as issuer, asking(issuer, issuer.url + JWKS, clock) as keys:
        await keys.find("first")
        issuer.gate.clear()
        issuer.waiting.clear()
        clock.now = 300.0
        meanwhile = await keys.find("first")
        await issuer.waiting.wait()
        issuer.publish(OTHER.jwk())
        issuer.gate.set()
        after = await keys.find("second")

    assert meanwhile is not None
    assert after is not None
    assert len(issuer.asked) == 2


@pytest.mark.parametrize("status", [b"500 Gone", b"302 Found", b"404 Not Found", b"nonsense"])
async def test_keys_are_kept_while_the_issuer_is_away(status: bytes, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    async with issuing(KEY.jwk()) as issuer, asking(issuer, issuer.url + JWKS, clock) as keys:
        await keys.find("first")
        issuer.status = status
        clock.now = 1000.0
        await keys.find("second")
        kept = keys.held("first")
        issuer.status = b"200 OK"
        issuer.publish(OTHER.jwk())
        clock.now = 1010.0
        again = await keys.find("second")

    assert kept is not None
    assert again is not None
    assert "going on with the 1 had before" in caplog.text


@pytest.mark.parametrize(
    "discovered",
    [
        {"issuer": "https://other", "jwks_uri": "{}/keys"},
        {"issuer": "{}", "jwks_uri": "http://192.0.2.1/keys"},
        {"issuer": "{}", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "{}"},
        [],
    ],
    ids=str,
)
async def test_a_document_that_leads_elsewhere_is_not_followed(discovered: object) -> None:
    async with issuing(KEY.jwk()) as issuer, asking(issuer) as keys:
        issuer.documents[DISCOVERY] = msgspec.json.encode(discovered).replace(b"{}", issuer.url.encode())
        found = await keys.find("first")

    assert found is None
    assert issuer.asked == [DISCOVERY]


async def test_a_document_without_end_is_not_read_to_its_end() -> None:
    async with issuing(KEY.jwk()) as issuer, asking(issuer, issuer.url + JWKS) as keys:
        issuer.documents[JWKS] = b" " * 300_000 + issuer.documents[JWKS]
        found = await keys.find("first")

    assert found is None


async def test_an_issuer_is_asked_over_tls_and_must_be_who_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path).begin()
    signed = authority.sign("issuer")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.cert, signed.key)

    async with issuing(KEY.jwk(), tls=context) as issuer:
        async with asking(issuer) as keys:
            stranger = await keys.find("first")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))
        async with asking(issuer) as keys:
            trusted = await keys.find("first")

    assert stranger is None
    assert trusted is not None


async def test_a_question_that_is_not_answered_is_given_up_when_the_server_stops() -> None:
    async with issuing(KEY.jwk()) as issuer:
        issuer.gate.clear()
        keys = KeysOfIssuer(issuer.url)
        waits = asyncio.create_task(keys.find("first"))
        await issuer.waiting.wait()
        await keys.close()

        assert await waits is None
