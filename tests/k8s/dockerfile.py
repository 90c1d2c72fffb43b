"""Dockerfile.cuda as data, and its install steps run without an engine."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.k8s.manifests import ROOT

FILE = ROOT / "Dockerfile.cuda"
NOBODY = 65534
MOUNT = re.compile(r"--mount=\S+\s+")
PLACES = re.compile(r"(?<![\w/.])/(wheels|build|src|opt/headrace)\b")


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction, continuation lines joined."""

    verb: str
    text: str


def stages() -> list[list[Step]]:
    """The instructions of each stage, without the comments and what stands before the first FROM."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    steps = [Step(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]
    starts = [number for number, step in enumerate(steps) if step.verb == "FROM"]
    return [steps[start:end] for start, end in zip(starts, [*starts[1:], len(steps)], strict=True)]


def copied() -> list[str]:
    """What the build takes from the repository."""
    return [source for stage in stages() for step in stage if step.verb == "COPY" for source in step.text.split()[:-1]]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A folder that stands for the image's root; every command runs there as somebody without rights."""

    root: Path
    python: Path

    def prepare(self) -> None:
        """Make the folder that somebody's."""
        for name in ("src", "bin", "home", "opt"):
            (self.root / name).mkdir()
        (self.root / "bin/python").symlink_to(self.python)
        for path in (self.root, *self.root.iterdir()):
            if os.geteuid() == 0 and not path.is_symlink():
                os.chown(path, NOBODY, NOBODY)

    def install(self, variant: str) -> list[int]:
        """The steps up to the one that makes the user; returns the bytes of the tree after each that runs."""
        sizes = []
        for step in install_steps():
            if step.verb == "COPY":
                self._copy(*step.text.split())
            else:
                command = PLACES.sub(rf"{self.root}/\1", MOUNT.sub("", step.text))
                self.run(["sh", "-euc", command], {"VARIANT": variant})
                sizes.append(sum(path.lstat().st_size for path in (self.root / "opt").rglob("*")))
        return sizes

    def run(self, command: list[str], more: dict[str, str]) -> None:
        """One command to its end; raises AssertionError with what it said."""
        done = subprocess.run(command, cwd=self.root / "src", **self.rights(more), capture_output=True, text=True)  # noqa: PLW1510
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def rights(self, more: dict[str, str]) -> dict[str, object]:
        """How a process here is started: nobody, with an environment of its own."""
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "http", "HTTP"))}
        home = str(self.root / "home")
        environment = {**kept, "PATH": f"{self.root}/bin:/usr/bin:/bin", "HOME": home, "PIP_NO_CACHE_DIR": "1", **more}
        as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        return {"env": environment, **as_nobody}

    def freeze(self) -> None:
        """From here on nobody may write anywhere below."""
        subprocess.run(["chmod", "-R", "a-w", self.root], check=True)

    def thaw(self) -> None:
        """So that the folder can be removed."""
        subprocess.run(["chmod", "-R", "u+w", self.root], check=True)

    def _copy(self, *names: str) -> None:
        for name in names[:-1]:
            source, target = ROOT / name, self.root / "src" / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)


def install_steps() -> Iterator[Step]:
    """What both stages copy and run to install, in their order."""
    for stage in stages():
        for step in stage:
            if step.verb == "RUN" and "useradd" in step.text:
                break
            if step.verb in {"COPY", "RUN"}:
                yield step
