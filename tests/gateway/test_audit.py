import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.access import is_admin
from gateway.audit import Audit, Unwritable, open_stream
from gateway.caller import Caller, Grant
from gateway.telemetry import Exchange
from tests.gateway.fakes import ready
from tests.gateway.keys import bearer, key_for, locked


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Path]:
    """The file that the audit log goes into."""
    logger, file = logging.getLogger("headrace.audit"), tmp_path / "audit"
    open_stream(file)
    yield file
    for each in logger.handlers:
        each.close()
    logger.handlers, logger.propagate = [], True


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().removesuffix("\n").split("\n")]


SCOPE = {"method": "POST", "path": "/v1/embeddings", "client": ("10.0.0.1", 5)}


@pytest.mark.anyio
async def test_a_line_tells_who_wanted_what_and_never_the_key(tmp_path: Path, stream: Path) -> None:
    key, revoked = key_for(tmp_path / "keys", tasks={"rerank"}), "hr_0123456789abcdef_" + "0" * 64

    async with locked(tmp_path / "keys", audit_log=stream) as subject:
        await subject.embed({"input": "w1"}, **bearer(key), **{"x-request-id": "one"})
        await subject.embed({"input": "w1"}, **bearer(revoked), **{"x-request-id": "two"})
        await subject.embed({"input": "w1"}, **{"x-request-id": "three"})
        await subject.http.get("/v1/models", headers=bearer(key))

    told = [{name: value for name, value in line.items() if name != "time"} for line in lines(stream)]
    where = {"action": "POST /v1/embeddings", "address": "127.0.0.1"}
    assert told == [
        where | {"outcome": "forbidden", "key": key.split("_")[1], "caller": "search", "request_id": "one"},
        where | {"outcome": "invalid_api_key", "key": "0123456789abcdef", "request_id": "two"},
        where | {"outcome": "invalid_api_key", "request_id": "three"},
    ]
    assert key.split("_")[2] not in stream.read_text()


def test_a_flood_without_a_key_writes_few_lines_and_their_number(stream: Path) -> None:
    now = 0.0
    subject = Audit(now=lambda: 0.0, clock=lambda: now)

    for _ in range(1000):
        subject.refused(SCOPE, Exchange("id", code="invalid_api_key"), "")
    now = 1.0
    subject.refused(SCOPE, Exchange("id", code="invalid_api_key"), "")

    told = lines(stream)
    assert len(told) == 21
    assert told[-1]["left_out"] == 980


def test_an_admin_s_action_is_told_with_its_outcome(stream: Path) -> None:
    subject = Audit(now=lambda: 0.0)

    subject.ended(SCOPE, Exchange("id", status=200, action="load tiny", caller=Caller("ops", "ab" * 8, Grant())))
    subject.reloaded(3)

    loaded, read = lines(stream)
    assert (loaded["action"], loaded["outcome"], loaded["key"], loaded["caller"]) == (
        "load tiny",
        "ok",
        "ab" * 8,
        "ops",
    )
    assert (read["action"], read["outcome"]) == ("read keys", "3 keys")
    assert datetime.fromisoformat(read["time"]) == datetime.fromtimestamp(0, UTC)


def test_what_a_caller_writes_into_a_path_stays_within_its_line(stream: Path) -> None:
    path = '/\n{"action": "forged"}\r\x00\u2028' + "x" * 10_000

    Audit().refused({**SCOPE, "path": path}, Exchange("id"), "")

    [line] = lines(stream)
    assert line["action"].startswith("POST /\n{")
    assert len(line["action"]) < 300


def test_the_file_may_be_moved_away(stream: Path) -> None:
    subject = Audit()
    subject.reloaded(1)

    stream.rename(stream.with_suffix(".1"))
    subject.reloaded(2)

    assert [line["outcome"] for line in lines(stream)] == ["2 keys"]


@pytest.mark.anyio
@pytest.mark.parametrize("admin", [True, False])
async def test_only_who_is_granted_it_is_an_admin(tmp_path: Path, admin: bool) -> None:
    key, seen = key_for(tmp_path / "keys", admin=admin), []

    async with locked(tmp_path / "keys") as subject:
        subject.app.add_route("/seen", lambda request: seen.append(is_admin(request.scope)))
        with pytest.raises(TypeError):
            await subject.http.get("/seen", headers=bearer(key))

    assert seen == [admin]


@pytest.mark.anyio
async def test_nobody_is_an_admin_without_keys() -> None:
    seen = []

    async with ready() as subject:
        subject.app.add_route("/seen", lambda request: seen.append(is_admin(request.scope)))
        with pytest.raises(TypeError):
            await subject.http.get("/seen")

    assert seen == [False]


def test_a_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(Unwritable, match="cannot write the audit log to"):
        open_stream(tmp_path / "none" / "audit")


def test_without_a_file_it_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    open_stream(None)

    Audit().reloaded(1)
    logging.getLogger("headrace.audit").handlers = []

    said = capsys.readouterr()
    assert json.loads(said.out)["outcome"] == "1 keys"
    assert said.err == ""
