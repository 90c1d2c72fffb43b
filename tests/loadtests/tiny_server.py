"""
A server of /v1/embeddings that answers at once, late, refuses, fails, or freezes now and then; in a thread of its own.

Frozen it does nothing at all: what is sent lies unread, and few connections are held until it accepts again.
"""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

BACKLOG = 16  # connections that wait to be accepted; later ones are tried again by their caller's kernel
ANSWER = b'{"data": [{"embedding": [0.6, 0.8]}]}'
OTHER = b'{"data": []}'
REASONS = {200: b"OK", 429: b"Too Many Requests", 500: b"Internal Server Error"}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What it does: the status and body of each answer, how late it is, and for how long of each period it freezes."""

    status: int = 200
    body: bytes = ANSWER
    takes_s: float = 0.0
    frozen_s: float = 0.0
    period_s: float = 10.0


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Serve until the block ends; gives the address."""
    address: Future[str] = Future()
    stop: Future[None] = Future()
    with ThreadPoolExecutor(1) as thread:
        served = thread.submit(asyncio.run, _serve(behaviour, address, stop))
        yield address.result(10)
        stop.set_result(None)
        served.result(10)


async def _serve(behaviour: Behaviour, address: Future[str], stop: Future[None]) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
                await asyncio.sleep(behaviour.takes_s)
                writer.write(_answer(behaviour))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=BACKLOG)
    freezes = asyncio.create_task(_freeze(behaviour))
    address.set_result(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await asyncio.wrap_future(stop)
    freezes.cancel()
    server.close()


async def _freeze(behaviour: Behaviour) -> None:
    while behaviour.frozen_s:
        await asyncio.sleep(behaviour.period_s - behaviour.frozen_s)
        time.sleep(behaviour.frozen_s)  # nothing runs meanwhile: that is what it is for


def _answer(behaviour: Behaviour) -> bytes:
    head = b"HTTP/1.1 %d %s" % (behaviour.status, REASONS[behaviour.status])
    return b"%s\r\ncontent-length: %d\r\n\r\n%s" % (head, len(behaviour.body), behaviour.body)
