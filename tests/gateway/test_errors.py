import pytest

from gateway.errors import ClientGone, Fault, HttpFault, describe
from inference import (
    DeadlineExceeded,
    DeviceLost,
    InvalidRequest,
    OutOfMemory,
    Overloaded,
    RuntimeFailed,
    Unavailable,
    UnknownModel,
)
from inference.scheduler import Refused
from tests.gateway.fakes import ready

SECRET = "/srv/secret.py line 7"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("too long", "input[3]"), 400, "invalid_request"),
        (UnknownModel("not served", "model"), 404, "model_not_found"),
        (Overloaded("queue full", 0.25), 429, "overloaded"),
        (Unavailable("starting"), 503, "unavailable"),
        (DeviceLost(SECRET), 503, "unavailable"),
        (DeadlineExceeded("too late"), 504, "deadline_exceeded"),
        (RuntimeFailed(SECRET), 500, "model_failed"),
        (OutOfMemory(SECRET), 500, "model_failed"),
        (ClientGone(), 499, "client_closed_request"),
        (HttpFault(413, "body_too_large", "too large"), 413, "body_too_large"),
        (ZeroDivisionError(SECRET), 500, "internal_error"),
        (KeyError(SECRET), 500, "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_error_has_its_line_in_the_table(error: Exception, status: int, code: str) -> None:
    fault = describe(error)

    assert (fault.status, fault.code) == (status, code)
    assert SECRET not in fault.message
    assert fault.message


def test_a_fault_names_the_field() -> None:
    assert describe(InvalidRequest("too long", "input[3]")).field == "input[3]"


@pytest.mark.parametrize(
    ("retry_after_s", "whole_seconds", "milliseconds"),
    [(0.0, "1", "1"), (0.0001, "1", "1"), (0.25, "1", "250"), (1.0, "1", "1000"), (1.001, "2", "1001"), (-3, "1", "1")],
)
def test_when_to_come_back_is_rounded_up_to_what_the_headers_can_say(
    retry_after_s: float, whole_seconds: str, milliseconds: str
) -> None:
    headers = describe(Overloaded("queue full", retry_after_s)).headers()

    assert headers == {"retry-after": whole_seconds, "retry-after-ms": milliseconds}


def test_only_refusals_say_when_to_come_back() -> None:
    assert describe(DeadlineExceeded()).headers() == {}
    assert describe(InvalidRequest("no")).headers() == {}
    assert describe(DeviceLost()).headers()["retry-after"] == "1"


def test_a_message_that_quotes_the_caller_is_cut() -> None:
    assert len(describe(UnknownModel("x" * 10_000)).message) == 500
    assert len(describe(HttpFault(400, "invalid_request", "x" * 10_000)).message) == 500


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest("too long", "input[3]"), 400, "invalid_request_error"),
        (UnknownModel("not served", "model"), 404, "invalid_request_error"),
        (Overloaded("queue full", 0.25), 429, "rate_limit_error"),
        (Unavailable("starting"), 503, "server_error"),
        (DeviceLost(SECRET), 503, "server_error"),
        (DeadlineExceeded("too late"), 504, "server_error"),
        (RuntimeFailed(SECRET), 500, "server_error"),
        (ZeroDivisionError(SECRET), 500, "server_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_every_error_of_the_engine_is_answered_in_the_shape_of_openai(
    error: Exception, status: int, kind: str
) -> None:
    async with ready() as subject:
        subject.engine.error = error
        answer = await subject.embed({"input": "w0"})

    assert answer.status_code == status
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answer.json()["error"]["type"] == kind
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    assert ("retry-after" in answer.headers) == (status in {429, 503})
    assert answer.headers["x-request-id"]


@pytest.mark.anyio
async def test_a_refusal_at_the_door_says_when_to_come_back_and_queues_nothing() -> None:
    async with ready() as subject:
        subject.engine.refuse = Refused("deadline out of reach", 2.5)
        answer = await subject.embed({"input": "w0"})

    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["retry-after-ms"] == "2500"
    assert answer.json()["error"]["code"] == "overloaded"
    assert subject.engine.submitted == []


@pytest.mark.anyio
async def test_a_row_that_failed_fails_its_call_without_its_reason() -> None:
    async with ready() as subject:
        subject.engine.device.bad = True
        answer = await subject.embed({"input": "w0"})

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "model_failed"
    assert "secret" not in answer.text


def test_a_sentence_has_the_field_before_the_message() -> None:
    assert Fault(400, "invalid_request", "must not be empty", "input[3]").sentence == "input[3]: must not be empty"
    assert Fault(503, "unavailable", "draining").sentence == "draining"
