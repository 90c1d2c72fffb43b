"""checkov, as a second pair of eyes: nothing but what k8s/.checkov.yaml explains."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import skip
from tests.k8s.dockerfile import FILE
from tests.k8s.manifests import OVERLAYS, ROOT, Document, Variant

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHECKOV = ROOT / ".venv-checkov/bin/checkov"
Rendered = Callable[[Variant], list[Document]]


def failed(framework: str, *where: str) -> list[dict[str, Any]]:
    """The checks that did not pass."""
    if not CHECKOV.exists():
        skip("checkov is not installed: `make .venv-checkov`")
    command = [str(CHECKOV), "--framework", framework, "--config-file", str(ROOT / "k8s/.checkov.yaml")]
    command += ["--output", "json", "--quiet", "--compact", "--skip-download", *where]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 10
    found: list[dict[str, Any]] = report["results"]["failed_checks"]
    return found


def brief(found: list[dict[str, Any]]) -> list[str]:
    return sorted({f"{each['check_id']} {each['check_name']}: {each['resource']}" for each in found})


def test_the_dockerfile_has_no_unexplained_finding() -> None:
    assert brief(failed("dockerfile", "--file", str(FILE))) == []


def test_no_overlay_has_an_unexplained_finding(rendered: Rendered, tmp_path: Path) -> None:
    for overlay in OVERLAYS:
        components = ("surge", "warm-pool") if overlay != "cpu" else ("surge",)
        (tmp_path / f"{overlay}.yaml").write_text(yaml.safe_dump_all(rendered(Variant(overlay, components))))

    assert brief(failed("kubernetes", "--directory", str(tmp_path))) == []


def test_a_planted_mistake_is_found(rendered: Rendered, tmp_path: Path) -> None:
    documents = json.loads(json.dumps(rendered(Variant("cpu"))))
    for document in documents:
        if document["kind"] == "Deployment":
            document["spec"]["template"]["spec"]["containers"][0]["securityContext"]["privileged"] = True
    (tmp_path / "spoilt.yaml").write_text(yaml.safe_dump_all(documents))

    found = brief(failed("kubernetes", "--directory", str(tmp_path)))

    assert [line.split()[0] for line in found] == ["CKV_K8S_16"]
