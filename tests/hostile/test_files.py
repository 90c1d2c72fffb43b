"""Folders of models that would run code, or read other files, when they are loaded: the real process refuses each."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Headrace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MARK = "it ran"


class Payload:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> Any:
        return Path.write_text, (self._folder / "ran", MARK)


def beside(name: str) -> Callable[[Path], None]:
    """Put a pickle that runs beside the weights."""
    return lambda folder: (folder / name).parent.mkdir(exist_ok=True) or _pickle(folder, name)


def _pickle(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Payload(folder)))


def instead(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    _pickle(folder, "model.safetensors")


def script(folder: Path) -> None:
    (folder / "modeling.py").write_text(f"import pathlib; pathlib.Path({str(folder / 'ran')!r}).write_text({MARK!r})")


def says(file: str, **told: Any) -> Callable[[Path], None]:
    """Write more into one of the folder's JSON files."""

    def write(folder: Path) -> None:
        path = folder / file
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **told}))

    return write


def index_of(place: str) -> Callable[[Path], None]:
    return says("model.safetensors.index.json", weight_map={"a": place})


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights that are a pickle": (beside("pytorch_model.bin"), "pytorch_model.bin"),
    "a pickle in a folder below": (beside("1_Pooling/pytorch_model.pt"), "pytorch_model.pt"),
    "a pickle in capitals": (beside("WEIGHTS.PKL"), "WEIGHTS.PKL"),
    "a pickle that is called safetensors": (instead, "SafetensorError"),
    "a script": (script, "modeling.py"),
    "auto_map": (says("config.json", auto_map={"AutoModel": "modeling.Evil"}), "auto_map"),
    "auto_map of the tokenizer": (
        says("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil", None]}),
        "auto_map",
    ),
    "auto_map further in": (says("config.json", text_config={"auto_map": {"AutoModel": "x.Y"}}), "auto_map"),
    "custom pipelines": (says("config.json", custom_pipelines={"x": {"impl": "evil.Pipe"}}), "custom_pipelines"),
    "a kernel from a hub": (says("config.json", attn_implementation="evil/kernel"), "attn_implementation"),
    "an implementation that is internal": (
        says("config.json", _attn_implementation_internal="evil/kernel"),
        "_attn_implementation_internal",
    ),
    "a quantiser": (says("config.json", quantization_config={"quant_method": "evil"}), "quantization_config"),
    "an index of pickles": (index_of("pytorch_model-00001.bin"), "pytorch_model-00001.bin"),
    "an index of other folders": (index_of("../../other/model.safetensors"), "only safetensors beside it"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_with_a_line_and_runs_nothing(
    start: Callable[..., Headrace], model: Path, tmp_path: Path, name: str
) -> None:
    change, named = HOSTILE[name]
    folder = tmp_path / "evil"
    shutil.copytree(model, folder)
    change(folder)

    server = start("--model", str(folder), "--threads", "1")
    code = server.wait()

    refusals = [line for line in server.said.splitlines() if line.startswith("headrace: ")]
    assert code == 2
    assert len(refusals) == 1
    assert named in refusals[0]
    assert not (folder / "ran").exists()
    assert "Traceback" not in server.said
