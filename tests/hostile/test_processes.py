"""Faults of one process of several (`--http-workers 2`), under load. ARCHITECTURE.md has the table of all faults."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Headrace
from tests.hostile.conftest import Healthy, all_answered, begin, callers, counted, healed_s, port_of, right

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

FLAGS = ("--http-workers", "2", "--drain-delay", "0")

Record = Callable[[str, object], None]  # with `-o junit_family=legacy --junitxml=FILE` it is kept


def processes(server: Headrace) -> dict[str, list[int]]:
    """Their ids, by what they are for: of the children only those for HTTP listen."""
    parent = psutil.Process(server.process.pid)
    found: dict[str, list[int]] = {"parent": [parent.pid], "engine": [], "http": []}
    for child in parent.children():
        try:
            serves = any(each.status == psutil.CONN_LISTEN for each in child.net_connections("tcp"))
        except psutil.Error:
            continue  # it has just ended
        found["http" if serves else "engine"].append(child.pid)
    return found


def seen(everybody: list[Healthy]) -> Counter[str]:
    """What callers saw so far."""
    statuses = Counter(str(status) for one in everybody for status, _ in one.answers)
    return statuses + Counter(type(error).__name__ for one in everybody for error in one.errors)


def answers(everybody: list[Healthy]) -> list[list[tuple[int, bytes]]]:
    return [[answer for answer in one.answers if answer[0] == 200] for one in everybody]


def until_answered(server: Headrace, everybody: list[Healthy], count: int) -> None:
    """Wait until each caller has so many answers more, whatever else it sees."""
    wanted = [len(told) + count for told in answers(everybody)]
    server.until(lambda: all(len(told) >= most for told, most in zip(answers(everybody), wanted, strict=True)))


@pytest.mark.parametrize("role", ["parent", "engine", "http"])
def test_a_process_that_is_stopped_goes_on_where_it_was(
    start: Callable[..., Headrace], model: Path, record_property: Record, role: str
) -> None:
    server = begin(start, model, *FLAGS)
    port, before = port_of(server), processes(server)
    process = psutil.Process(before[role][0])

    with callers(port) as everybody:
        until_answered(server, everybody, 20)
        process.suspend()
        time.sleep(3)
        process.resume()
        record_property("healed_s", healed_s(port, time.monotonic()))
        until_answered(server, everybody, 20)

    assert all_answered(everybody)
    assert processes(server) == before
    assert counted(server, "headrace_requests_total{") == 1 + seen(everybody)["200"]  # one was asked by `healed_s`


@pytest.mark.parametrize("role", ["engine", "http"])
def test_a_process_that_is_killed_costs_what_it_had_and_is_replaced(
    start: Callable[..., Headrace], model: Path, record_property: Record, role: str
) -> None:
    server = begin(start, model, *FLAGS)
    port, before = port_of(server), processes(server)

    with callers(port) as everybody:
        until_answered(server, everybody, 20)
        psutil.Process(before[role][0]).kill()
        killed = time.monotonic()
        record_property("healed_s", healed_s(port, killed))
        server.until(lambda: sorted(map(len, processes(server).values())) == [1, 1, 2])
        record_property("whole_s", time.monotonic() - killed)
        until_answered(server, everybody, 20)

    told = seen(everybody)
    record_property("seen", dict(told))
    assert set(told) <= ({"200", "503"} if role == "engine" else {"200", "RemoteDisconnected", "ConnectionResetError"})
    assert role == "engine" or max(len(one.errors) for one in everybody) <= 1
    assert right(answers(everybody))
    after = processes(server)
    assert {other: after[other] for other in after if other != role} == {
        other: before[other] for other in before if other != role
    }


def test_a_parent_that_is_killed_leaves_nobody_and_its_successor_takes_the_port(
    start: Callable[..., Headrace], model: Path, record_property: Record
) -> None:
    server = begin(start, model, *FLAGS)
    port = port_of(server)
    children = psutil.Process(server.process.pid).children()

    with callers(port) as everybody:
        until_answered(server, everybody, 20)
        server.process.kill()
        server.process.wait()
        killed = time.monotonic()
        _, alive = psutil.wait_procs(children, timeout=60)
        record_property("gone_s", time.monotonic() - killed)
        successor = start("--model", str(model), "--threads", "1", "--port", str(port), *FLAGS)
        record_property("healed_s", healed_s(port, killed))
        until_answered(successor, everybody, 20)

    told = seen(everybody)
    record_property("seen", dict(told))
    assert alive == []
    assert set(told) <= {"200", "503", "RemoteDisconnected", "ConnectionResetError", "ConnectionRefusedError"}
    assert right(answers(everybody))
