"""Faults under load with real processes. What callers see, and how long it takes to heal, is in ARCHITECTURE.md."""

import os
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.conftest import skip
from tests.e2e.conftest import Headrace
from tests.gateway.keys import bearer, key_for
from tests.hostile.conftest import all_answered, begin, callers, counted, each_until, healed_s, port_of, right
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
HALF_OPEN = 10_000
ANSWERED = "headrace_requests_total{"

Record = Callable[[str, object], None]  # with `-o junit_family=legacy --junitxml=FILE` it is kept


def test_a_process_that_is_stopped_goes_on_where_it_was(
    start: Callable[..., Headrace], model: Path, record_property: Record
) -> None:
    server = begin(start, model, "--stuck-after", "0.5")
    port = port_of(server)

    with callers(port) as everybody:
        each_until(everybody, 20, server)
        server.signal(signal.SIGSTOP)
        time.sleep(3)  # longer than a batch may take
        server.signal(signal.SIGCONT)
        record_property("healed_s", healed_s(port, time.monotonic()))
        each_until(everybody, 20, server)

    assert all_answered(everybody)
    assert counted(server, ANSWERED) == 1 + sum(len(one.answers) for one in everybody)  # one was asked by `healed_s`
    assert server.process.poll() is None


def test_a_process_that_is_killed_loses_only_what_it_had_and_its_successor_takes_the_port(
    start: Callable[..., Headrace], model: Path, record_property: Record
) -> None:
    server = begin(start, model)
    port = port_of(server)

    with callers(port) as everybody:
        each_until(everybody, 20, server)
        server.process.kill()
        server.process.wait()
        killed = time.monotonic()
        successor = start("--model", str(model), "--threads", "1", "--port", str(port))
        record_property("healed_s", healed_s(port, killed))
        before = [len(one.errors) for one in everybody]
        for one in everybody:
            wanted = len(one.answers) + 20
            successor.until(lambda one=one, wanted=wanted: len(one.answers) >= wanted)

    assert [len(one.errors) for one in everybody] == before
    assert {status for one in everybody for status, _ in one.answers} <= {200, 503}  # while the successor starts
    assert right([[answer for answer in one.answers if answer[0] == 200] for one in everybody])


def test_a_disk_that_is_full_of_logs_costs_nobody_an_answer(start: Callable[..., Headrace], model: Path) -> None:
    server = start("--model", str(model), "--threads", "1")
    port = port_of(server)

    with callers(port) as everybody:
        each_until(everybody, 20, server)
        full = len(server.said) // 2  # of what is written already: not a byte more is taken
        psutil.Process(server.process.pid).rlimit(resource.RLIMIT_FSIZE, (full, full))
        each_until(everybody, 50, server)
        said = server.said
        each_until(everybody, 50, server)

    assert all_answered(everybody)
    assert server.said == said
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize("jump", ["+30d", "-30d"])
def test_a_clock_that_jumps_moves_no_deadline(
    start: Callable[..., Headrace], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: str
) -> None:
    if not FAKETIME.exists():
        skip("there is no libfaketime here (Debian: faketime)")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    for name, value in {"LD_PRELOAD": str(FAKETIME), **faked}.items():
        monkeypatch.setenv(name, value)
    server = begin(start, model)
    monkeypatch.delenv("LD_PRELOAD")
    port = port_of(server)
    year = date_of(port)

    with callers(port) as everybody:
        each_until(everybody, 20, server)
        clock.write_text(jump)
        server.until(lambda: date_of(port) != year)
        each_until(everybody, 50, server)

    assert all_answered(everybody)


def date_of(port: int) -> str:
    """Month and year, as the server's Date header has them."""
    with socket.create_connection(("127.0.0.1", port), 30) as one:
        one.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head = one.makefile("rb").read().decode()
    return " ".join(head.partition("date: ")[2].split()[2:4])


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_redis_that_goes_and_comes_back_costs_nobody_an_answer(
    start: Callable[..., Headrace], model: Path, tmp_path: Path, record_property: Record, how: str
) -> None:
    redis, keys = RedisServer(tmp_path), tmp_path / "keys"
    headers = bearer(key_for(keys, requests_per_s=1e6, in_flight=100))
    redis.start()
    server = begin(start, model, "--keys", str(keys), "--audit-log", str(tmp_path / "audit"), "--redis-url", redis.url)

    with callers(port_of(server), headers=headers) as everybody:
        each_until(everybody, 20, server)
        shared = [counted(server, "headrace_shared_limits ")]
        redis.kill() if how == "killed" else redis.signal(signal.SIGSTOP)
        gone = time.monotonic()
        server.until(lambda: counted(server, "headrace_shared_limits ") == 0)
        record_property("noticed_s", time.monotonic() - gone)
        each_until(everybody, 50, server)
        shared.append(counted(server, "headrace_shared_limits "))
        redis.start() if how == "killed" else redis.signal(signal.SIGCONT)
        back = time.monotonic()
        server.until(lambda: counted(server, "headrace_shared_limits ") == 1)
        record_property("healed_s", time.monotonic() - back)
        each_until(everybody, 20, server)
    redis.kill()

    assert all_answered(everybody)
    assert shared == [1, 0]


@pytest.mark.parametrize("way", ["overwritten", "cut off", "replaced"])
def test_a_model_file_that_changes_in_place_changes_no_answer(
    start: Callable[..., Headrace], model: Path, tmp_path: Path, way: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    server = begin(start, folder)
    weights = folder / "model.safetensors"
    size = weights.stat().st_size

    with callers(port_of(server)) as everybody:
        each_until(everybody, 20, server)
        if way == "replaced":
            other = tmp_path / "other"
            other.write_bytes(os.urandom(size))
            other.replace(weights)
        else:
            with weights.open("r+b") as file:
                file.truncate(0)
                file.write(os.urandom(size) if way == "overwritten" else b"")
        each_until(everybody, 50, server)

    assert all_answered(everybody)


def test_ten_thousand_connections_that_are_half_open_keep_nobody_out(
    start: Callable[..., Headrace], model: Path, record_property: Record
) -> None:
    """They have addresses of their own; each sends half a head, and then nothing."""
    allow_files(HALF_OPEN + 500)
    flags = ("--max-connections", "12000", "--max-connections-per-address", "12000", "--header-timeout", "5")
    server = begin(start, model, *flags)
    port = port_of(server)
    before = psutil.Process(server.process.pid).memory_info().rss

    with callers(port, 2) as everybody, ExitStack() as stack:
        for number in range(HALF_OPEN):
            half = stack.enter_context(socket.socket())
            half.bind(("127.0.0.3", 0))
            half.connect(("127.0.0.1", port))
            half.sendall(b"GET / HTTP/1.1\r\n")
            if number == HALF_OPEN - 1:
                opened = time.monotonic()
        process = psutil.Process(server.process.pid)
        most = process.num_fds()
        record_property("connections", most)
        record_property("bytes_each", (process.memory_info().rss - before) // HALF_OPEN)
        server.until(lambda: process.num_fds() < 100)
        record_property("healed_s", time.monotonic() - opened)
        each_until(everybody, 20, server)

    assert all_answered(everybody)


def allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        skip(f"{hard} open files are allowed here, {count} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
