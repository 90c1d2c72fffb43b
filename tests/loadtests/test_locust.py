"""Locust itself, in processes of its own (it patches the whole standard library), against tiny servers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.loadtests.tiny_server import OTHER, Behaviour, serving

ROOT = Path(__file__).parents[2]
LOCUST = Path(sys.executable).parent / "locust"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
LOOSE = "[default]\np50_ms = 5000\n"  # so that no other work on this machine decides
STRICT = "[default]\np99_ms = 100\n"
FREEZING = Behaviour(frozen_s=2.0, period_s=10.0)
SLOW = Behaviour(takes_s=0.2)  # and so one call at a time is too few for 40 a second


@contextmanager
def locust(host: str, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    command = [str(LOCUST), "-f", "loadtests/embed.py", "--host", host, *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(folder: Path, behaviour: Behaviour, slo: str, *arguments: str) -> tuple[int, str]:
    """The code that it ended with, and all that it said."""
    (folder / "slo.toml").write_text(slo)
    told = ("--headless", "--only-summary", "--slo", str(folder / "slo.toml"), *arguments)
    with serving(behaviour) as host, locust(host, *told) as process:
        said, _ = process.communicate(timeout=120)
        return process.returncode, said


@pytest.mark.parametrize(
    ("code", "behaviour", "arguments", "words"),
    [
        (0, Behaviour(), (), "verdict: met"),
        (1, Behaviour(status=500), (), "{'status 500': "),
        (1, Behaviour(status=429), (), "shed_rate 1 <= 0: MISSED"),
        (1, Behaviour(body=OTHER), (), "another form"),
        (3, SLOW, ("--most-in-flight", "1"), "dropped"),
    ],
    ids=["met", "failing", "shedding", "answering otherwise", "dropping"],
)
@pytest.mark.slow
def test_the_exit_code_is_the_verdict(
    tmp_path: Path, code: int, behaviour: Behaviour, arguments: tuple[str, ...], words: str
) -> None:
    found, said = run(tmp_path, behaviour, LOOSE, "--rate", "40", "--duration", "1", "--warm-up", "0.2", *arguments)

    assert found == code, said
    assert words in said


def test_each_exit_code_in_one_go(tmp_path: Path) -> None:
    """Three processes at once, since each takes a second to start."""
    told = ["--headless", "--rate", "40", "--duration", "1", "--warm-up", "0.2", "--slo", str(tmp_path / "slo.toml")]
    (tmp_path / "slo.toml").write_text(LOOSE)

    with (
        serving(Behaviour()) as fine,
        serving(Behaviour(status=500)) as failing,
        serving(SLOW) as slow,
        locust(fine, *told) as met,
        locust(failing, *told) as missed,
        locust(slow, *told, "--most-in-flight", "1") as invalid,
    ):
        codes = [process.wait(60) for process in (met, missed, invalid)]

    assert codes == [0, 1, 3]


@pytest.mark.slow
def test_a_server_that_freezes_passes_a_closed_loop_and_misses_in_an_open_one(tmp_path: Path) -> None:
    """It neither reads nor accepts for 2 s in every 10. Both loops at once, each at a server of its own."""
    told = ["--headless", "--rate", "50", "--duration", "20", "--warm-up", "1", "--slo", str(tmp_path / "slo.toml")]
    (tmp_path / "slo.toml").write_text(STRICT)

    with (
        serving(FREEZING) as host,
        serving(FREEZING) as other,
        locust(host, *told, "--closed", "--users", "1") as waiting,
        locust(other, *told) as independent,
    ):
        closed, _ = waiting.communicate(timeout=120)
        opened, _ = independent.communicate(timeout=120)

    found = re.search(r"p99_ms (\d+)", opened)
    assert waiting.returncode == 0, closed
    assert independent.returncode == 1, opened
    assert found is not None
    assert float(found[1]) > 1000


@pytest.mark.usefixtures("minilm_path")
@pytest.mark.timeout(900)
@pytest.mark.slow
def test_each_command_of_the_readme_ends_with_the_code_beside_it(tmp_path: Path) -> None:
    commands = re.findall(r"^(loadtests/local\.sh.*?) +# (\d)", (ROOT / "loadtests/README.md").read_text(), re.M)
    (tmp_path / "slo.toml").write_text(LOOSE)
    shorter = ["--rate", "5", "--duration", "4", "--warm-up", "1", "--slo", str(tmp_path / "slo.toml")]

    for command, code in commands:
        script, *told = command.split()
        ended = subprocess.run(
            [script, *shorter, *told], check=False, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
        )
        assert ended.returncode == int(code), ended.stdout + ended.stderr

    assert [int(code) for _, code in commands] == [0, 1, 3]


@pytest.mark.slow
def test_processes_offer_one_plan_together(tmp_path: Path) -> None:
    told = ("--rate", "60", "--duration", "3", "--warm-up", "0.5", "--arrivals", "constant", "--processes", "2")

    code, said = run(tmp_path, Behaviour(), LOOSE, *told, "--report", str(tmp_path))

    assert code == 0, said
    assert sum(tally["due"] for tally in json.loads((tmp_path / "report.json").read_text())["tallies"]) == 180


@pytest.mark.slow
def test_a_run_that_is_cut_short_is_invalid(tmp_path: Path) -> None:
    (tmp_path / "slo.toml").write_text(LOOSE)

    with serving(Behaviour()) as host, locust(host, "--headless", "--slo", str(tmp_path / "slo.toml")) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "All users spawned" in line:
                break
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)

    assert process.returncode == 3
    assert "only 0 of 1 shares" in said


@pytest.mark.slow
def test_the_web_page_starts_a_run_and_the_verdict_is_said(tmp_path: Path) -> None:
    (tmp_path / "slo.toml").write_text(LOOSE)
    page = "http://127.0.0.1:8189"
    told = ("--web-host", "127.0.0.1", "--web-port", "8189", "--warm-up", "0.2", "--slo", str(tmp_path / "slo.toml"))

    with serving(Behaviour()) as host, locust(host, *told) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "Starting web interface" in line)
        for _ in range(2):  # one run after another, with options of the form
            _start(f"{page}/swarm", b"user_count=1&spawn_rate=1&rate=50&duration=1")
            assert "met" in next(line for line in process.stdout if line.startswith("verdict"))
        _start(f"{page}/swarm", b"user_count=1&spawn_rate=1&rate=-1")
        assert "--rate: -1 is not from" in next(line for line in process.stdout if "ERROR" in line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 3  # the last run was none


def _start(url: str, form: bytes) -> None:
    for _ in range(50):
        try:
            assert json.load(urlopen(url, form))["success"]
        except OSError:
            time.sleep(0.1)  # it says that it starts before it listens
        else:
            return
    pytest.fail("the page never came")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rate", "0"), "--rate: 0 is not from"),
        (("--run-time", "5s"), "--run-time"),
        (("--slo", "/nowhere"), "--slo: /nowhere"),
    ],
)
@pytest.mark.slow
def test_a_mistake_on_the_command_line_is_neither_missed_nor_invalid(arguments: tuple[str, ...], said: str) -> None:
    with locust("http://127.0.0.1:9", "--headless", *arguments) as process:
        words, _ = process.communicate(timeout=30)

    assert process.returncode == 2
    assert said in words
