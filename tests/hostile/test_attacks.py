"""Each attack against the real process, beside a healthy caller whose answers all arrive. Speed is for benchmarks."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.attacks import ATTACKS
from tests.e2e.conftest import Headrace
from tests.hostile.conftest import Healthy, ask, attacked, begin, cuts, memory_of, port_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

HASTY = ("--header-timeout", "2", "--body-timeout", "2", "--send-timeout", "2")
CALLS = 200
MORE_MEMORY = 700_000_000  # bytes: 256 MB each of arriving bodies and unread answers, and what the system lags behind
BODIES_MEMORY = 400_000_000  # bytes, where nothing but bodies arrives: 303 MB measured, on a busy machine
CODES = {
    "half heads": "request_timeout",
    "half bodies": "request_timeout",
    "silence": "request_timeout",
    "unread answers": "unread_answer",
    "nonsense": "invalid_http",
    "smuggling": "invalid_http",
    "head flood": "head_too_large",
    "chunk extensions": "body_too_large",
    "pipelining": "invalid_http",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_healthy_caller_has_all_its_answers_beside(start: Callable[..., Headrace], model: Path, name: str) -> None:
    server = begin(start, model, *HASTY)
    port = port_of(server)
    _, expected = ask(port)
    before = memory_of(server)

    most = before
    with attacked(port, name), Healthy(port) as healthy:
        for _ in range(CALLS // 20):
            healthy.until(20, server)
            most = max(most, memory_of(server))
        if name in CODES:
            server.until(lambda: cuts(server, CODES[name]) > 0)
        healthy.until(20, server)

    assert healthy.errors == []
    assert {status for status, _ in healthy.answers} == {200}
    assert {body for _, body in healthy.answers} == {expected}
    assert most - before < (BODIES_MEMORY if name == "large half bodies" else MORE_MEMORY)
    assert "Traceback" not in server.said
    assert "/etc" not in server.said


def test_what_was_smuggled_in_a_body_is_never_a_call(start: Callable[..., Headrace], model: Path) -> None:
    server = start("--model", str(model), "--threads", "1")
    port = port_of(server)

    with attacked(port, "smuggling"):
        server.until(lambda: cuts(server, "invalid_http") > 50)

    assert "GET other" not in server.said
