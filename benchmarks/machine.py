"""The machine a figure was measured on: its cores, its name, and the versions of what ran."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = ("torch", "transformers", "tokenizers", "headrace")


class TooSmall(Exception):
    """There are too few cores here to measure a server and its callers apart."""


def two_cores() -> tuple[int, int]:
    """Choose a core for what is measured and another for whoever measures; raises TooSmall."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise TooSmall("this benchmark needs two cores: one for the server, one for its callers")
    return cores[0], cores[-1]


def hardware() -> dict[str, Any]:
    """Name the processor."""
    return {"cpu": _cpu_model(), "cores": os.cpu_count(), "system": platform.system(), "machine": platform.machine()}


def versions() -> dict[str, str]:
    """Name the versions of what was measured."""
    return {"python": platform.python_version()} | {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it runs where it lies
        return "not installed"


def commit() -> str:
    """Name the git commit that was measured, with `+changes` where the tree had more; `unknown` outside of git."""
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "gateway", "inference")
    return (head or "unknown") + ("+changes" if changed else "")


def _cpu_model() -> str:
    """Model name, family and number: hypervisors often hide the first."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    told: dict[str, str] = {}
    for line in info.read_text().splitlines():
        key, _, value = line.partition(":")
        told.setdefault(key.strip(), value.strip())
    return f"{told.get('model name', '')} (family {told.get('cpu family')}, model {told.get('model')})"


def _git(*arguments: str) -> str:
    return _output(["git", "-C", str(Path(__file__).parent), *arguments])


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
