import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from gateway.config import HttpConfig, Settings, TlsConfig
from gateway.tls import server_context
from gateway.watched import Unreadable
from tests.gateway.certificates import Authority, Signed, openssl
from tests.gateway.fakes import listening

pytestmark = pytest.mark.anyio


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority")).begin()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "other").begin()


def placed(folder: Path, signed: Signed, client_ca: Path | None = None) -> TlsConfig:
    """The files where a server reads them."""
    tls = TlsConfig(folder / "tls.crt", folder / "tls.key", None if client_ca is None else folder / "ca.crt")
    shutil.copy(signed.cert, folder / "tls.crt")
    shutil.copy(signed.key, folder / "tls.key")
    if client_ca is not None:
        shutil.copy(client_ca, folder / "ca.crt")
    return tls


def client(trusted: Authority, shown: Signed | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trusted.cert)
    if shown is not None:
        context.load_cert_chain(shown.cert, shown.key)
    return context


@asynccontextmanager
async def answering(tls: TlsConfig, clock: Clock) -> AsyncIterator[int]:
    """A server that says one word; its port."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"word")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0, ssl=server_context(tls, clock))
    async with server:
        yield server.sockets[0].getsockname()[1]


async def heard(port: int, context: ssl.SSLContext, name: str | None = None) -> tuple[str, bytes]:
    """The name on the server's certificate, and what it says; raises SSLError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "127.0.0.1")
    try:
        word = await reader.read()
        subject = dict(part[0] for part in writer.get_extra_info("peercert")["subject"])
        return subject["commonName"], word
    finally:
        writer.close()


async def hears(port: int, context: ssl.SSLContext) -> bool:
    """Whether anything is said; in TLS 1.3 a caller learns after its own handshake that it is refused."""
    try:
        return (await heard(port, context))[1] != b""
    except (ssl.SSLError, ConnectionError):
        return False


async def test_calls_come_over_tls_and_plain_ones_get_nothing(tmp_path: Path, authority: Authority) -> None:
    tls = placed(tmp_path, authority.sign("server"))

    async with listening(settings=Settings(tls=tls)) as address:
        url = f"https://127.0.0.1:{address.port}/v1/embeddings"
        async with httpx2.AsyncClient(verify=client(authority)) as caller:
            answer = await caller.post(url, json={"input": "w1"})
        plain = await address.answer(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")

    assert answer.status_code == 200
    assert b"alive" not in plain


async def test_who_does_not_shake_hands_in_time_is_cut(tmp_path: Path, authority: Authority) -> None:
    tls = placed(tmp_path, authority.sign("server"))

    async with listening(settings=Settings(HttpConfig(header_timeout_s=0.1), tls=tls)) as address:
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        async with asyncio.timeout(20):
            said = await reader.read()
        writer.close()

    assert said == b""


async def test_a_new_certificate_is_shown_without_a_restart(tmp_path: Path, authority: Authority) -> None:
    clock = Clock()
    tls = placed(tmp_path, authority.sign("first"))

    async with answering(tls, clock) as port:
        before = await heard(port, client(authority))
        placed(tmp_path, authority.sign("second"))
        clock.now = 1.0
        after = await heard(port, client(authority))

    assert (before, after) == (("first", b"word"), ("second", b"word"))


async def test_a_certificate_whose_key_is_still_to_come_changes_nothing(tmp_path: Path, authority: Authority) -> None:
    clock = Clock()
    tls = placed(tmp_path, authority.sign("first"))

    async with answering(tls, clock) as port:
        signed = authority.sign("second")
        shutil.copy(signed.cert, tmp_path / "tls.crt")
        clock.now = 1.0
        half = await heard(port, client(authority))
        shutil.copy(signed.key, tmp_path / "tls.key")
        clock.now = 2.0
        whole = await heard(port, client(authority))

    assert (half[0], whole[0]) == ("first", "second")


async def test_callers_must_show_a_certificate_of_the_right_authority(
    tmp_path: Path, authority: Authority, other: Authority
) -> None:
    tls = placed(tmp_path, authority.sign("server"), authority.cert)

    async with answering(tls, Clock()) as port:
        known = await heard(port, client(authority, authority.sign("caller")))
        strangers = [await hears(port, client(authority, each)) for each in (None, other.sign("stranger"))]

    assert known == ("server", b"word")
    assert strangers == [False, False]


async def test_authorities_of_callers_change_without_a_restart(
    tmp_path: Path, authority: Authority, other: Authority
) -> None:
    clock = Clock()
    tls = placed(tmp_path, authority.sign("server"), authority.cert)
    old, new = client(authority, authority.sign("old")), client(authority, other.sign("new"))

    async with answering(tls, clock) as port:
        before = await heard(port, old)
        shutil.copy(other.cert, tmp_path / "ca.crt")
        clock.now = 1.0
        after = await heard(port, new)
        former = await hears(port, old)

    assert before == after == ("server", b"word")
    assert not former


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_of_tls_are_not_spoken(tmp_path: Path, authority: Authority) -> None:
    tls = placed(tmp_path, authority.sign("server"))
    context = client(authority)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")

    async with answering(tls, Clock()) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await heard(port, context)


@pytest.mark.parametrize("wrong", ["no certificate", "no key", "another key", "a password", "no authorities", "empty"])
async def test_files_that_cannot_be_used_stop_the_start_with_their_names(
    tmp_path: Path, authority: Authority, wrong: str
) -> None:
    tls = placed(tmp_path, authority.sign("server"), authority.cert)
    match wrong:
        case "no certificate":
            (tmp_path / "tls.crt").unlink()
        case "no key":
            (tmp_path / "tls.key").unlink()
        case "another key":
            shutil.copy(authority.key, tmp_path / "tls.key")
        case "a password":
            openssl("ec", "-in", str(authority.key), "-aes256", "-passout", "pass:x", "-out", str(tmp_path / "tls.key"))
        case "no authorities":
            (tmp_path / "ca.crt").unlink()
        case "empty":
            (tmp_path / "ca.crt").write_text("")

    with pytest.raises(Unreadable, match=r"tls\.crt|ca\.crt") as caught:
        server_context(tls)

    assert "\n" not in str(caught.value)


async def test_without_a_certificate_there_is_no_tls() -> None:
    assert server_context(TlsConfig()) is None
