"""`headrace serve --http-workers`: several real processes, as one server to whoever calls, signals or kills."""

import signal
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest

from tests.e2e.conftest import Headrace
from tests.e2e.test_serve import TEXTS, Caller, embed
from tests.otlp import collecting
from tests.tiny import save_tiny

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.mark.usefixtures("minilm_path")
def test_a_stop_under_load_answers_every_call_that_was_taken(start: Callable[..., Headrace]) -> None:
    server = start("--http-workers", "2", "--drain-delay", "2", "--max-batch-tokens", "256")
    callers = [Caller(server.url, number) for number in range(16)]
    expected = embed(server.url, TEXTS)

    for caller in callers:
        caller.thread.start()
    server.until(lambda: all(caller.answers for caller in callers))
    server.signal(signal.SIGTERM)
    with httpx2.Client(base_url=server.url) as http:
        server.until(lambda: http.get("/readyz").status_code == 503)
    answered_before = sum(len(caller.answers) for caller in callers)
    server.until(lambda: sum(len(caller.answers) for caller in callers) > answered_before)
    for caller in callers:
        caller.stop.set()
    for caller in callers:
        caller.thread.join()
    code = server.wait()

    assert [caller.failure for caller in callers] == [None] * 16
    answers = [answer for caller in callers for answer in caller.answers]
    assert all(np.abs(vector - expected[number]).max() < 1e-5 for number, vector in answers)
    assert code == 0
    assert "Traceback" not in server.said


@pytest.fixture
def small(start: Callable[..., Headrace], tmp_path: Path) -> Headrace:
    return start("--http-workers", "2", "--model", str(save_tiny("bert", tmp_path / "bert")), "--drain-delay", "600")


def test_children_leave_when_their_parent_was_killed(small: Headrace) -> None:
    small.until(lambda: small.url)
    children = psutil.Process(small.process.pid).children()

    small.process.kill()
    gone, alive = psutil.wait_procs(children, timeout=60)

    assert (len(gone), alive) == (3, [])


def test_a_second_signal_does_not_wait_and_leaves_nobody_behind(small: Headrace) -> None:
    small.until(lambda: small.url)
    children = psutil.Process(small.process.pid).children()

    small.signal(signal.SIGTERM)
    small.until(lambda: "draining" in small.said)
    small.signal(signal.SIGTERM)
    code = small.wait()
    _, alive = psutil.wait_procs(children, timeout=60)

    assert code == 128 + signal.SIGTERM
    assert alive == []


def test_a_stop_while_starting_is_clean(start: Callable[..., Headrace]) -> None:
    server = start("--http-workers", "1")

    server.until(lambda: "load 0/1" in server.said or "warm up" in server.said)
    server.signal(signal.SIGTERM)

    assert server.wait() == 0
    assert "Traceback" not in server.said


def test_what_cannot_be_served_is_one_line_with_code_2(start: Callable[..., Headrace], tmp_path: Path) -> None:
    server = start("--http-workers", "2", "--model", str(tmp_path / "absent"))

    code = server.wait()

    assert code == 2
    assert len([line for line in server.said.splitlines() if line.startswith("headrace: ")]) == 1
    assert "Traceback" not in server.said


def test_spans_are_whole_where_engine_and_http_are_processes_apart(
    start: Callable[..., Headrace], tmp_path: Path
) -> None:
    with collecting() as collector:
        model = str(save_tiny("bert", tmp_path / "bert"))
        server = start("--http-workers", "2", "--model", model, "--otlp-endpoint", collector.url, "--drain-delay", "0")

        httpx2.post(f"{server.url}/v1/embeddings", json={"input": "w1"}).raise_for_status()
        server.signal(signal.SIGTERM)
        server.wait()

        [call] = collector.named("POST /v1/embeddings")
        [queue], [device], [batch] = (collector.named(name) for name in ("queue", "device", "batch"))
        assert queue.parent_span_id == device.parent_span_id == call.span_id
        assert [link.span_id for link in queue.links] == [batch.span_id]
        assert call.start_time_unix_nano <= queue.start_time_unix_nano <= queue.end_time_unix_nano
        assert queue.end_time_unix_nano == device.start_time_unix_nano
        assert device.end_time_unix_nano <= call.end_time_unix_nano
