"""
Attacks on a server over real sockets, each for ever until it is stopped, from an address of its own.

`python -m benchmarks.attacks NAME PORT SECONDS` runs one; who measures or tests runs it in a process beside.
"""

import asyncio
import contextlib
import itertools
import os
import sys
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

ADDRESS: Final = "127.0.0.2"  # the attacker's: limits on an address must not meet the healthy caller
_BODY_BYTES: Final = 8 * 1024 * 1024 - 1000  # just below the server's default limit
_AT_ONCE: Final = 300  # connections that hold on to what they have


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server listens."""

    port: int

    async def connect(self, *, buffer_bytes: int = 65536) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection; raises OSError."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(ADDRESS, 0), limit=buffer_bytes)


Attack = Callable[[Target], Awaitable[None]]


async def half_heads(target: Target) -> None:
    """Many connections that drip a head that never ends."""
    await _many(_AT_ONCE, lambda: _drip(target, b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n"))


async def half_bodies(target: Target) -> None:
    """Many connections that drip a body that never ends."""
    await _many(_AT_ONCE, lambda: _drip(target, _head("/v1/embeddings", 1_000_000), b" " * 100))


async def large_half_bodies(target: Target) -> None:
    """Many connections that send a body of 8 MB but for its last byte."""
    start = _head("/v1/embeddings", _BODY_BYTES) + b" " * (_BODY_BYTES - 1)
    await _many(100, lambda: _drip(target, start, b""))


async def silence(target: Target) -> None:
    """Many connections that say nothing."""
    await _many(_AT_ONCE, lambda: _drip(target, b"", b""))


async def unread_answers(target: Target) -> None:
    """Many connections that ask, again and again, and never read."""
    call = _post("/v1/embeddings", b'{"input": [' + b", ".join([b'"w1 w2"'] * 500) + b"]}")
    await _many(50, lambda: _ask_and_ignore(target, call))


async def churn(target: Target) -> None:
    """Connections that are opened and closed at once."""
    await _again_and_again(target, b"", 100.0)


async def nonsense(target: Target) -> None:
    """Connections that do not speak HTTP."""
    noise = itertools.cycle([b"\x16\x03\x01\x02\x00\x01", b"\x00" * 100, b"GET\r\n\r\n", b"\xff" * 2000, b"{}\r\n\r\n"])
    await _again_and_again(target, noise, 100.0)


async def smuggling(target: Target) -> None:
    """Calls whose length is told twice, or in two ways."""
    inner = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    told = [
        b"Content-Length: 3\r\nContent-Length: 40\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: 0x3\r\n",
    ]
    calls = [b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n0\r\n\r\n" + inner for lines in told]
    await _again_and_again(target, itertools.cycle(calls), 100.0)


async def head_flood(target: Target) -> None:
    """Heads of thousands of lines."""
    await _again_and_again(target, b"GET / HTTP/1.1\r\n" + b"X-Flood: y\r\n" * 20_000 + b"\r\n", 20.0)


async def chunk_extensions(target: Target) -> None:
    """Bodies of one byte a chunk, each chunk with an extension that is thrown away."""
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    await _again_and_again(target, head + b"1;x=yyyyyyyy\r\n \r\n" * 50_000, 10.0)


async def pipelining(target: Target) -> None:
    """Thousands of calls on one connection, sent before any answer is read."""
    call = _post("/v1/embeddings", b'{"input": "w1"}')
    await _again_and_again(target, call * 1500, 5.0)


async def empty_lists(target: Target) -> None:
    """Bodies of millions of empty lists."""
    await _again_and_again(target, _post("/v1/embeddings", _json_of(b"[]")), 2.0)


async def many_numbers(target: Target) -> None:
    """Bodies of millions of numbers."""
    await _again_and_again(target, _post("/v1/embeddings", _json_of(b"1")), 2.0)


async def deep_json(target: Target) -> None:
    """Bodies that are nested deeper than anybody reads."""
    bodies = [b'{"input":' + b"[" * 500_000, b'{"parameters":' * 100_000, b'{"input":' + b"9" * 500_000 + b"}"]
    calls = [_post(path, body) for body in bodies for path in ("/v1/embeddings", "/rerank", "/models/tiny")]
    await _again_and_again(target, itertools.cycle(calls), 20.0)


async def bombs(target: Target) -> None:
    """Bodies that are a thousand times as large when decompressed."""
    stream = zlib.compressobj(9, wbits=31)
    bomb = b"".join([stream.compress(b" " * 1_000_000) for _ in range(1000)]) + stream.flush()
    await _again_and_again(target, _post("/v2/models/tiny/infer", bomb, b"Content-Encoding: gzip\r\n"), 20.0)


async def long_texts(target: Target) -> None:
    """Texts of megabytes, to be tokenised."""
    texts = [b'{"input": "' + b"w1 " * 1_000_000 + b'"}', b'{"inputs": "' + b"w1 " * 20_000 + b'"}']
    calls = [_post("/v1/embeddings", texts[0]), _post("/tokenize", texts[1])]
    await _again_and_again(target, itertools.cycle(calls), 5.0)


async def unicode(target: Target) -> None:
    """Texts of every kind of character that has ever broken something, and of bytes that are none."""
    kinds: list[bytes | str] = [
        b"\\ud800",
        b"\\u0000",
        "e" + "\u0301" * 5000,
        "\u202e\u2066\u200f",
        "\ufdfa" * 2000,
        "\U000e0001" * 500,
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        "👩‍👩‍👧‍👦" * 300,
    ]
    texts = [kind if isinstance(kind, bytes) else kind.encode() for kind in kinds]
    calls = [
        _post(path, b'{"%s": "%s"}' % (field, text))
        for text in texts
        for path, field in (("/v1/embeddings", b"input"), ("/v1/embeddings", text), ("/tokenize", b"inputs"))
    ]
    await _again_and_again(target, itertools.cycle(calls), 100.0)


async def paths(target: Target) -> None:
    """Targets and hosts that mean another thing to somebody else."""
    told = [
        b"/docs/assets/../../../../etc/passwd",
        b"/docs/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
        b"/docs/assets/%2e%2e/%2e%2e/config.py",
        b"//evil.example/v1/models",
        b"/v1/models%00.html",
        b"/v1/%6dodels/..;/admin",
        b"http://evil.example/v1/embeddings",
        b"/v2/models/..%2f..%2fetc%2fpasswd",
        b"/models/%ff%fe",
        b"*",
    ]
    hosts = [b"x", b"x/livez?", b"evil.example:99999", b"[::1", b"", b"a\x7fb", b"localhost:8000#@evil.example"]
    calls = [b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, host) for path in told for host in hosts]
    await _again_and_again(target, itertools.cycle(calls), 100.0)


ATTACKS: Final[Mapping[str, Attack]] = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        *(half_heads, half_bodies, large_half_bodies, silence, unread_answers, churn, nonsense, smuggling, head_flood),
        *(chunk_extensions, pipelining, empty_lists, many_numbers, deep_json, bombs, long_texts, unicode, paths),
    )
}


async def run(name: str, port: int, seconds: float) -> None:
    """Run one attack for so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ATTACKS[name](Target(port))


def _head(path: str, length: int, lines: bytes = b"") -> bytes:
    kind = b"Content-Type: application/json\r\n"
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%s%sContent-Length: %d\r\n\r\n" % (path.encode(), kind, lines, length)


def _post(path: str, body: bytes, lines: bytes = b"") -> bytes:
    return _head(path, len(body), lines) + body


def _json_of(value: bytes) -> bytes:
    return b'{"input": [' + b",".join([value] * ((_BODY_BYTES - 100) // (len(value) + 1))) + b"]}"


async def _many(count: int, hold: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(_for_ever(hold))


async def _for_ever(hold: Callable[[], Awaitable[None]]) -> None:
    while True:
        with contextlib.suppress(OSError):
            await hold()
        await asyncio.sleep(0.1)  # a server that refuses is not to be asked at once


async def _drip(target: Target, start: bytes, drop: bytes) -> None:
    """Send the start, then a drop a second until the other side closes."""
    reader, writer = await target.connect()
    try:
        writer.write(start)
        while not writer.is_closing() and not reader.at_eof():
            writer.write(drop)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(65536), 1)
    finally:
        writer.close()


async def _ask_and_ignore(target: Target, call: bytes) -> None:
    """Send calls as long as the other side reads; a small buffer here leaves the answers there."""
    _, writer = await target.connect(buffer_bytes=1)
    try:
        while not writer.is_closing():
            writer.write(call)
            await writer.drain()
            await asyncio.sleep(0.05)
    finally:
        writer.close()


async def _again_and_again(target: Target, calls: bytes | Iterator[bytes], per_second: float) -> None:
    """Open connections at a rate, one after another at the latest, and give each what comes next."""
    source = itertools.repeat(calls) if isinstance(calls, bytes) else calls
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                await _give(target, next(source))
        await asyncio.sleep(1 / per_second)


async def _give(target: Target, call: bytes) -> None:
    reader, writer = await target.connect()
    try:
        writer.write(call)
        await writer.drain()
        if call:
            await reader.read(65536)
    finally:
        writer.transport.abort()


def main() -> int:
    """Run the attack that the command line names."""
    name, port, seconds = sys.argv[1:]
    os.nice(5)  # what is measured is the server, not who has the core
    asyncio.run(run(name, int(port), float(seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
