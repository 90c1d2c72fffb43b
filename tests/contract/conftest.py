"""Clients whose pins clash with ours: each in an environment of its own, built once and kept."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.config import default_cache_dir
from tests.conftest import skip

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


@pytest.fixture(scope="session")
def environment() -> Callable[[str], Path]:
    """Return the python of an environment with exactly the versions of `requirements/<name>.txt`."""

    def build(name: str) -> Path:
        pins = REQUIREMENTS / f"{name}.txt"
        digest = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
        folder = default_cache_dir() / "clients" / f"{name}-{digest}"
        if not (folder / "whole").exists():
            _build(folder, pins)
        return folder / "bin" / "python"

    return build


def _build(folder: Path, pins: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(pins)]
    for command in ([sys.executable, "-m", "venv", str(folder)], [str(folder / "bin" / "python"), *install]):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            skip(f"{pins.name} cannot be installed: {done.stderr[-300:]}")
    (folder / "whole").touch()
