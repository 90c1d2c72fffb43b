"""Every parser of bytes under a fuzzer; what it found of interest once is kept, and read again with every run."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import skip
from tests.controls.guard import ROOT
from tests.hostile.targets import TARGETS, stop

CORPUS = Path(__file__).parent / "corpus"
SECONDS = 30


@pytest.fixture(scope="module", autouse=True)
def stopped() -> Iterator[None]:
    yield
    stop()


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_is_no_fault_of_ours(name: str) -> None:
    kept = sorted((CORPUS / name).iterdir())
    for file in kept:
        TARGETS[name](file.read_bytes())

    assert len(kept) >= 5


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("name", TARGETS)
def test_the_fuzzer_finds_nothing(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        skip("there is no Atheris for this Python and system")
    options = [f"-max_total_time={SECONDS}", "-rss_limit_mb=6000", "-timeout=20", f"-artifact_prefix={tmp_path}/found-"]
    (tmp_path / "corpus").mkdir()
    command = [sys.executable, "-m", "tests.hostile.fuzz", name, tmp_path / "corpus", CORPUS / name, *options]

    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)

    assert ran.returncode == 0, ran.stderr[-5000:]
    assert list(tmp_path.glob("found-*")) == []
