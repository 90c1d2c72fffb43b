"""
Negative controls: a test that still passes without what it tests is no test.

A new guard gets a row in the table of its subject. Each row is run in a copy of the source, in a process
forked from one that has imported what takes seconds (but nothing of ours).
"""

import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.attacks import ATTACKS
from tests.controls import access, batcher, gateway, golden, hostile, processes, repository, reuse, scheduler
from tests.controls.guard import ROOT, Guard

TABLES = (access, batcher, reuse, scheduler, gateway, golden, processes, repository, hostile)
GUARDS = tuple(guard for table in TABLES for guard in table.GUARDS)
COPIED = ("gateway", "inference", "tests")
AT_ONCE = 3  # many do nothing but hang
TEST_S = 20  # a test may take so long without its guard, where many hang
GUARDED_S = 60  # and so long with it: a busy machine is no fault
FAILED = re.compile(r"^(1 failed\b|\++ Timeout \+)", re.MULTILINE)
# What a replacement raises that is broken itself, whatever it guards.
BROKEN = re.compile(r"\b(Import|ModuleNotFound|Syntax|Indentation|Name|UnboundLocal|Attribute|Type)Error\b")

PRELOADED = ["torch", "transformers.models.auto.modeling_auto", "tokenizers", "safetensors.torch"]
PRELOADED += ["fastapi", "httpx2", "hypothesis.strategies", "opentelemetry.sdk.trace", "pytest", "uvicorn"]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Ran:
    """How pytest ended, and what it said."""

    code: int | None
    said: str


@dataclass(frozen=True)
class Runs:
    """The tests of the chosen rows, with all guards and without each of them."""

    guarded: Future[Ran]
    without: Mapping[Guard, Future[Ran]]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    rows = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    chosen = [row.params["guard"] for row in rows if row] or list(GUARDS)
    root = tmp_path_factory.mktemp("controls")
    pool = ThreadPoolExecutor(AT_ONCE)
    guarded = pool.submit(run_guarded, root / "guarded", sorted({guard.test for guard in chosen}))
    without = {guard: pool.submit(run_without, root / str(row), guard) for row, guard in enumerate(chosen)}
    yield Runs(guarded, without)
    pool.shutdown(cancel_futures=True)


def run_guarded(folder: Path, tests: Sequence[str]) -> Ran:
    copy(folder)
    return pytest_in(folder, tests, GUARDED_S)


def run_without(folder: Path, guard: Guard) -> Ran:
    copy(folder)
    file = folder / guard.file
    file.write_text(guard.removed_from(file.read_text()))
    return pytest_in(folder, [guard.test], TEST_S)


def copy(folder: Path) -> None:
    for package in COPIED:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def pytest_in(folder: Path, tests: Sequence[str], timeout_s: int) -> Ran:
    process = PROCESSES.Process(target=become_pytest, args=(folder, tests, timeout_s))
    process.start()
    process.join(600)
    process.kill()
    process.join()
    return Ran(process.exitcode, (folder / "said").read_text())


class FirstFailure:
    """Ends the process with the first test that fails: what it left would hang in its fixtures."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(1, f"{report.longreprtext}\n1 failed: {report.nodeid}\n".encode())
            os._exit(pytest.ExitCode.TESTS_FAILED)


def become_pytest(folder: Path, tests: Sequence[str], timeout_s: int) -> None:
    with (folder / "said").open("wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    for name in list(sys.modules):
        if name.partition(".")[0] in COPIED:
            del sys.modules[name]
    sys.path[:] = [str(folder), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    os.chdir(folder)
    options = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", f"--timeout={timeout_s}"]
    options += ["-p", "no:langsmith_plugin", "-p", "no:schemathesis"]  # a second and a half to load, and unused
    options += ["-o", "timeout_func_only=true"]  # a fixture that is slow says nothing about a guard
    options += ["--timeout-method=thread"]  # uvloop goes on where a signal's handler raises
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what was preloaded
    sys.exit(pytest.main([*options, *tests], [FirstFailure()]))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_all_guards_in_place_every_test_of_the_table_passes(runs: Runs) -> None:
    ran = runs.guarded.result()

    assert ran.code == pytest.ExitCode.OK, ran.said


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_without_its_guard_the_test_fails(runs: Runs, guard: Guard) -> None:
    ran = runs.without[guard].result()

    assert ran.code == pytest.ExitCode.TESTS_FAILED, ran.said
    assert FAILED.search(ran.said), ran.said
    assert not BROKEN.search(ran.said), ran.said


def test_every_row_of_the_table_is_true_of_the_source() -> None:
    for guard in GUARDS:
        source = (ROOT / guard.file).read_text()
        file, _, name = guard.test.partition("::")

        compile(guard.removed_from(source), guard.file, "exec")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), guard.test


def test_no_two_rows_have_one_name() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)


def test_every_test_that_a_document_names_is_there() -> None:
    files = list((ROOT / "tests").rglob("test_*.py"))  # some have one name
    written = {file.stem: "".join(one.read_text() for one in files if one.stem == file.stem) for file in files}
    for document in ("ARCHITECTURE.md", "SECURITY.md"):
        named = re.findall(r"`(test_\w+)::(test_\w+)`", (ROOT / document).read_text())

        missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in written.get(file, "")]

        assert len(named) >= 10
        assert missing == []


def test_every_attack_has_its_guard_in_the_table_of_security() -> None:
    table = (ROOT / "SECURITY.md").read_text().partition("| attack |")[2].partition("\n\n")[0]
    told = {name.strip() for row in table.splitlines()[2:] for name in row.split("|")[1].split(",")}

    assert set(ATTACKS) - told == set()
