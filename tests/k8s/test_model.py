"""The model that pods wait for is the one that the fetch Job brings."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import commands
from tests.k8s.manifests import ROOT, Document, Variant, build, of_kind
from tests.k8s.pods import Pod, containers
from tests.k8s.server import environment, findings

Rendered = Callable[[Variant], list[Document]]

SUMS = ROOT / "k8s/base/SHA256SUMS"
MOUNTED = "/etc/headrace/model/SHA256SUMS"
COMMIT = "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a"


def container(documents: list[Document], kind: str, name: str) -> Document:
    pod: Pod = of_kind(documents, kind)[0]["spec"]["template"]
    return next(each for each in containers(pod) if each["name"] == name)


def test_the_job_fetches_what_its_check_and_every_pod_then_accept(
    rendered: Rendered, minilm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = rendered(Variant("cpu"))
    cache = minilm_path.parent.parent
    job = container(documents, "Job", "fetch")
    for variable, value in environment(job, documents).items():
        monkeypatch.setenv(variable, str(cache) if value == "/models" else value)

    fetched = commands.fetch(job["args"][1:])
    checks = [
        subprocess.run([word.replace(MOUNTED, str(SUMS)) for word in command], cwd=cache, check=False).returncode
        for command in (
            container(documents, "Job", "verify")["command"],
            ["sh", "-c", container(documents, "Deployment", "model")["command"][2].replace("sleep 5", "exit 1")],
        )
    ]

    assert fetched == 0
    assert checks == [0, 0]


def test_a_pod_does_not_serve_a_file_that_is_not_the_pinned_one(rendered: Rendered, tmp_path: Path) -> None:
    place = tmp_path / SUMS.read_text().split()[1]
    place.parent.mkdir(parents=True)
    place.write_bytes(b"not it")
    script = container(rendered(Variant("cpu")), "Deployment", "model")["command"][2]

    command = ["sh", "-c", script.replace(MOUNTED, str(SUMS)).replace("sleep 5", "exit 7")]
    done = subprocess.run(command, cwd=tmp_path, check=False)

    assert done.returncode == 7


def test_a_model_of_the_hub_is_served_from_the_folder_that_the_runbook_names(tree: Path) -> None:
    folder = f"hub/BAAI--bge-small-en-v1.5/{COMMIT}"
    settings = tree / "base/kustomization.yaml"
    key = "      - HEADRACE_CACHE_DIR=/models\n"
    settings.write_text(settings.read_text().replace(key, f"{key}      - HEADRACE_MODEL=bge=/models/{folder}\n"))
    (tree / "base/SHA256SUMS").write_text(f"{'0' * 64}  {folder}/model.safetensors\n")

    assert list(findings(build(tree, Variant("cpu")))) == []
