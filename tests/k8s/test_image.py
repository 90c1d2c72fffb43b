"""The image, as far as it can be judged without an engine to build it."""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml

from gateway import __version__
from gateway.config import load
from inference.fetch import DEFAULT_MODEL
from tests.conftest import skip
from tests.k8s.balancer import free_port
from tests.k8s.dockerfile import FILE, Unpacked, copied, stages
from tests.k8s.manifests import ROOT
from tests.k8s.server import SLACK_S

PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE | re.IGNORECASE)
OF_CUDA = re.compile(r"nvidia-(?!ml-py)|cuda-|triton$")


def pins(file: str) -> dict[str, str]:
    """Names and versions in a lock."""
    return {name.lower().replace("_", "-"): version for name, version in PIN.findall((ROOT / file).read_text())}


@pytest.mark.parametrize("file", [FILE, ROOT / "loadtests/Dockerfile"], ids=["server", "loadtest"])
def test_hadolint_finds_nothing(file: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        skip("hadolint is not in the environment: `make install`")

    done = subprocess.run([hadolint, file], capture_output=True, text=True, check=False)

    assert done.stdout == ""
    assert done.returncode == 0


def test_the_base_has_a_fixed_tag_and_both_stages_stand_on_it() -> None:
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", FILE.read_text(), re.MULTILINE)

    assert base
    assert re.fullmatch(r"python:3\.11-slim-bookworm(@sha256:[0-9a-f]{64})?", base[1])
    assert [stage[0].text.split()[0] for stage in stages()] == ["${PYTHON_IMAGE}"] * 2


def test_the_layers_are_ordered_so_that_a_change_of_the_code_ships_the_last_alone() -> None:
    installs = [step.text for step in stages()[1] if step.verb == "RUN" and "/wheels/" in step.text]

    assert ["-name 'nvidia*.whl'" in installs[0], "-not -name 'nvidia*'" in installs[1]] == [True, True]
    assert ["/wheels/runtime" in installs[2], "/wheels/headrace" in installs[3]] == [True, True]
    assert len(installs) == 4


def test_the_process_is_nobody_special_and_is_asked_to_stop_politely() -> None:
    last = {step.verb: step.text for step in stages()[1]}

    assert last["USER"] == "10001:0"
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["ENTRYPOINT"] == '["headrace"]'
    assert last["CMD"] == '["serve"]'
    assert "/livez" in last["HEALTHCHECK"]


def test_the_driver_is_found_where_gke_mounts_it() -> None:
    environment = " ".join(step.text for step in stages()[1] if step.verb == "ENV")

    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64 " in environment


@pytest.mark.parametrize(("answer", "pinned"), [("sha256:" + "a" * 64, True), ("", False)], ids=["told", "not told"])
def test_a_pin_is_what_the_registry_says_or_nothing(tmp_path: Path, answer: str, pinned: bool) -> None:
    """`docker` is a stand-in that knows one digest: no engine runs here."""
    (tmp_path / "loadtests").mkdir()
    files = ("Makefile", "Dockerfile.cuda", "loadtests/Dockerfile")
    for file in files:
        shutil.copy(ROOT / file, tmp_path / file)
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\necho '{answer}'\n")
    docker.chmod(0o755)
    command = ["make", "--silent", "pin"]

    codes = [
        subprocess.run(command, cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False).returncode
        for _ in range(2)  # the second finds a digest there
    ]

    lines = [line for file in files[1:] for line in (tmp_path / file).read_text().splitlines() if "ARG PYTHON" in line]
    assert [code == 0 for code in codes] == [pinned] * 2
    assert lines == [f"ARG PYTHON_IMAGE=python:3.11-slim-bookworm{f'@{answer}' if pinned else ''}"] * 2


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert allowed == set(copied())


def test_the_image_of_the_load_tests_is_built_of_what_it_copies_and_nothing_else() -> None:
    dockerfile = (ROOT / "loadtests/Dockerfile").read_text()
    sources = [source for line in dockerfile.splitlines() if line.startswith("COPY") for source in line.split()[1:-1]]
    allowed = (ROOT / "loadtests/Dockerfile.dockerignore").read_text().splitlines()

    assert {line[1:] for line in allowed if line.startswith("!")} == set(sources)
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("file", ["runtime", "torch-cuda", "torch-cpu", "build", "loadtest"])
def test_a_lock_holds_what_the_tests_ran_with(file: str) -> None:
    tested = pins("constraints.txt")
    locked = pins(f"requirements/{file}.lock")
    text = (ROOT / f"requirements/{file}.lock").read_text()

    assert locked
    assert text.count("==") <= text.count("--hash=sha256:")
    for name, version in locked.items():
        if file != "build" and not OF_CUDA.match(name):
            assert version.partition("+")[0] == tested[name], name


def test_compose_gives_the_drain_its_time_and_publishes_on_loopback_only() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    server = compose["services"]["headrace"]
    drain = load([], {"HEADRACE_HOST": "0.0.0.0", **server["environment"]}).drain

    assert server["image"].startswith(f"headrace:{__version__}-")
    assert int(server["stop_grace_period"].removesuffix("s")) >= drain.drain_delay_s + drain.drain_timeout_s + SLACK_S
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert list((ROOT / compose["services"]["grafana"]["volumes"][0].split(":")[0]).glob("headrace-*.json"))
    for name in ("prometheus", "datasource", "dashboards"):
        assert yaml.safe_load(compose["configs"][name]["content"])


@pytest.fixture
def unpacked() -> Iterator[Unpacked]:
    """An empty folder that anybody can reach, and a Python that anybody can run."""
    with tempfile.TemporaryDirectory(prefix="headrace-image-") as folder:
        found = Unpacked(Path(folder), python_for_anybody())
        found.prepare()
        yield found
        found.thaw()


def python_for_anybody() -> Path:
    """An interpreter of the image's version outside anybody's home."""
    for place in (Path(sys.base_prefix) / "bin/python3.11", Path("/usr/bin/python3.11")):
        if place.exists() and not place.resolve().is_relative_to("/root"):
            return place
    skip("there is no Python 3.11 that an unprivileged user may run")
    raise AssertionError


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_the_steps_install_serves_from_a_tree_that_cannot_be_written(
    unpacked: Unpacked, minilm_path: Path
) -> None:
    sizes = unpacked.install("cpu")
    models = unpacked.root / "models"
    shutil.copytree(minilm_path, models / "models" / minilm_path.name)
    unpacked.freeze()
    port = free_port()
    settings = {
        "HEADRACE_HOST": "0.0.0.0",
        "HEADRACE_ALLOW_ANONYMOUS": "true",
        "HEADRACE_PORT": str(port),
        "HEADRACE_METRICS_PORT": "0",
        "HEADRACE_THREADS": "1",
        "HEADRACE_DRAIN_DELAY": "0",
        "HEADRACE_CACHE_DIR": str(models),
        "PATH": f"{unpacked.root}/opt/headrace/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "USER": "headrace",
    }

    with tempfile.TemporaryFile() as log:
        command = [str(unpacked.root / "opt/headrace/bin/headrace"), "serve"]
        server = subprocess.Popen(command, stderr=log, cwd="/", **unpacked.rights(settings))
        try:
            await_ready(server, port)
            answer = httpx2.post(f"http://127.0.0.1:{port}/v1/embeddings", json={"input": "water"}, timeout=60)
            unpacked.run(health_command(), settings)
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
        finally:
            server.kill()
            server.wait()
            log.seek(0)
            said = log.read().decode()

    assert 0 < sizes[-1] - sizes[-2] < 5_000_000  # what a change of the code ships
    assert answer.json()["model"] == DEFAULT_MODEL.name
    assert code == 0, said
    assert "Traceback" not in said


def await_ready(server: subprocess.Popen[bytes], port: int) -> None:
    give_up = time.monotonic() + 180
    while True:
        assert server.poll() is None
        assert time.monotonic() < give_up
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.1)


def health_command() -> list[str]:
    """What the image's HEALTHCHECK runs."""
    check = next(step.text for step in stages()[1] if step.verb == "HEALTHCHECK")
    command: list[str] = yaml.safe_load(check.partition("CMD ")[2])
    return command
