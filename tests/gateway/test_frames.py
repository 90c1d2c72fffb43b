import gzip
import tracemalloc
import zlib
from dataclasses import replace

import pytest

from gateway.config import Settings
from gateway.frames import asked_coding, compressed
from tests.gateway.fakes import MODEL, Gateway, ready

pytestmark = pytest.mark.anyio

PATH = f"/v2/models/{MODEL}/infer"
BODY = b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w0"]}]}'
SMALL = Settings(http=replace(Settings().http, max_body_bytes=1000))
SQUEEZE = {"gzip": gzip.compress, "deflate": zlib.compress}


async def status(subject: Gateway, body: bytes, **headers: str) -> int:
    answer = await subject.http.post(
        PATH, content=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    assert (answer.status_code == 200) == (len(subject.engine.submitted) == 1)
    assert answer.status_code == 200 or answer.json().keys() == {"error"}
    return answer.status_code


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP", "identity"])
async def test_a_body_is_read_in_the_coding_that_it_names(coding: str) -> None:
    body = SQUEEZE.get(coding.lower(), bytes)(BODY)
    async with ready() as subject:
        assert await status(subject, body, content_encoding=coding) == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_the_limit_counts_bytes_after_decompression(coding: str) -> None:
    async with ready(settings=SMALL) as subject:
        exceeds = await status(subject, SQUEEZE[coding](BODY.ljust(1001)), content_encoding=coding)
        fits = await status(subject, SQUEEZE[coding](BODY.ljust(1000)), content_encoding=coding)

    assert (fits, exceeds) == (200, 413)


async def test_a_bomb_is_never_unpacked_whole() -> None:
    bomb = gzip.compress(bytes(64_000_000))
    settings = Settings(http=replace(Settings().http, max_body_bytes=len(bomb)))
    async with ready(settings=settings) as subject:
        tracemalloc.start()
        refused = await status(subject, bomb, content_encoding="gzip")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert refused == 413
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("body", "coding", "wanted"),
    [
        (BODY, "gzip", 400),
        (gzip.compress(BODY)[:-1], "gzip", 400),
        (gzip.compress(BODY)[:12], "gzip", 400),
        (gzip.compress(BODY)[:-8] + bytes(8), "gzip", 400),
        (gzip.compress(BODY) + gzip.compress(b" "), "gzip", 400),
        (gzip.compress(BODY) + b"z", "gzip", 400),
        (b"", "gzip", 400),
        (zlib.compress(BODY, wbits=-15), "deflate", 400),
        (BODY, "br", 415),
        (gzip.compress(BODY), "gzip, gzip", 415),
        (BODY, "", 415),
    ],
)
async def test_what_is_not_one_whole_stream_of_a_known_coding_is_refused(body: bytes, coding: str, wanted: int) -> None:
    async with ready() as subject:
        assert await status(subject, body, content_encoding=coding) == wanted


@pytest.mark.parametrize("length", [str(len(BODY)), f"0{len(BODY)}"])
async def test_the_header_says_where_the_json_ends(length: str) -> None:
    async with ready() as subject:
        assert await status(subject, BODY, inference_header_content_length=length) == 200


@pytest.mark.parametrize(
    "length", ["", "-1", "1.0", "1e1", "x", "٣", str(len(BODY) + 1), str(len(BODY) - 1), "9" * 400]
)
async def test_a_header_that_cannot_be_is_refused(length: str) -> None:
    async with ready() as subject:
        answer = await subject.http.post(
            PATH, content=BODY, headers={"inference-header-content-length": length.encode()}
        )

    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}
    assert subject.engine.submitted == []


async def test_the_json_ends_within_the_decompressed_body() -> None:
    async with ready() as subject:
        length = str(len(BODY))
        assert (
            await status(subject, gzip.compress(BODY), content_encoding="gzip", inference_header_content_length=length)
            == 200
        )


@pytest.mark.parametrize("kind", [None, "application/json", "application/octet-stream", "text/plain", "x"])
async def test_no_content_type_is_needed(kind: str | None) -> None:
    async with ready() as subject:
        assert await status(subject, BODY, **({} if kind is None else {"content_type": kind})) == 200


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        (" GZIP ;q=0.5", "gzip"),
        ("gzip, identity;q=0", "gzip"),
        ("gzip, br;q=0", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.0", None),
        ("gzip, deflate", None),
        ("gzip, deflate, br, zstd", None),
        ("br", None),
        ("*", None),
        ("identity", None),
        ("", None),
        (",;,", None),
    ],
)
async def test_only_one_coding_alone_is_a_wish(accepted: str, coding: str | None) -> None:
    assert asked_coding(accepted) == coding


@pytest.mark.parametrize(("coding", "expand"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
async def test_an_answer_is_compressed_as_its_coding_is_unpacked(coding: str, expand) -> None:
    assert expand(await compressed(BODY, coding)) == BODY
