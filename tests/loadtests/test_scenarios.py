"""Every scenario against the real server: what it sends is taken, and what it gets passes its own check."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architectures import build
from tests.e2e.conftest import Headrace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODELS = {"embed": "minilm", "rerank": "judge", "classify": "nli", "token_classify": "tagger", "zero_shot": "nli"}
LABELS = {
    "judge": ("SequenceClassification", ("LABEL_0",)),
    "nli": ("SequenceClassification", ("contradiction", "neutral", "entailment")),
    "tagger": ("TokenClassification", ("O", "B-PER", "I-PER")),
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, minilm_path: Path) -> Iterator[str]:
    """Where one process serves a model for every task."""
    root = tmp_path_factory.mktemp("scenarios")
    made = {name: build("bert", head, root / name, labels=labels) for name, (head, labels) in LABELS.items()}
    told = [word for name, path in {"minilm": minilm_path, **made}.items() for word in ("--model", f"{name}={path}")]
    server = Headrace(root / "log", "--device", "cpu", "--threads", "1", "--auto-truncate", *told)
    try:
        yield server.url
    finally:
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize(("task", "model"), MODELS.items())
def test_a_scenario_and_the_server_understand_each_other(task: str, model: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "slo.toml").write_text("[default]\np50_ms = 20000\n")
    told = ["--host", url, "--model", model, "--rate", "5", "--duration", "2", "--slo", str(tmp_path / "slo.toml")]

    done = subprocess.run(
        [Path(sys.executable).parent / "locust", "-f", f"loadtests/{task}.py", "--headless", *told],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert " 0 failed" in done.stdout


def test_there_is_a_row_for_every_scenario() -> None:
    scenarios = {file.stem for file in (ROOT / "loadtests").glob("*.py") if "(Load)" in file.read_text()}

    assert scenarios == set(MODELS)
