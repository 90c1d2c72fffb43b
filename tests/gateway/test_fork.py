import pytest

from gateway.fork import Fork

pytestmark = pytest.mark.anyio


class Reader:
    """An application that remembers what it was sent."""

    def __init__(self) -> None:
        self.messages: list[dict] = []

    async def __call__(self, scope, receive, send) -> None:
        more = True
        while more:
            self.messages.append(await receive())
            more = self.messages[-1].get("more_body", False)


async def sent(*messages: dict, most: int = 100) -> tuple[list[dict], list[dict]]:
    """Return what those with the field and those without have read."""
    having, lacking = Reader(), Reader()
    coming = iter(messages)

    async def receive() -> dict:
        return next(coming)

    await Fork("texts", having, lacking, most)({"type": "http"}, receive, None)
    return having.messages, lacking.messages


def chunk(body: bytes, *, more: bool = False) -> dict:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_with_the_field_goes_one_way_as_it_came() -> None:
    messages = [chunk(b'{"query": "a", "te', more=True), chunk(b'xts": []}')]

    assert await sent(*messages) == (messages, [])


@pytest.mark.parametrize(
    "body", [b'{"documents": ["texts"]}', b"{", b"", b"[]", b'"texts"', b'{"a": {"texts": 1}}', b"\xff", b"[" * 90]
)
async def test_every_other_body_goes_the_other_way(body: bytes) -> None:
    assert await sent(chunk(body)) == ([], [chunk(body)])


async def test_a_body_that_is_too_large_is_not_kept() -> None:
    messages = [chunk(b'{"texts": "' + b"a" * 60, more=True), chunk(b"a" * 60, more=True), chunk(b'"}')]

    assert await sent(*messages) == ([], messages)


async def test_a_caller_that_goes_is_seen_by_whoever_answers() -> None:
    messages = [chunk(b'{"texts"', more=True), {"type": "http.disconnect"}]

    assert await sent(*messages) == ([], messages)
