"""Keys against the real process, as its operator keeps them."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Headrace

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


def keys(file: Path, *words: str) -> str:
    command = [sys.executable, "-m", "gateway", "keys", *words, "--file", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def status(url: str, key: str = "") -> int:
    body = json.dumps({"input": "water"}).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/embeddings", body, headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as err:
        return err.code


def mounted(folder: Path, version: str) -> Path:
    """Where Kubernetes puts a version of a Secret."""
    (folder / version).mkdir(parents=True)
    return folder / version / "keys"


def show(folder: Path, version: str) -> None:
    """Swap the link as the kubelet does."""
    (folder / "..new").symlink_to(version)
    os.replace(folder / "..new", folder / "..data")


def test_keys_come_and_go_in_a_mounted_secret_while_calls_are_answered(
    start: Callable[..., Headrace], tmp_path: Path, minilm_path: Path
) -> None:
    secret = tmp_path / "secret"
    first = keys(mounted(secret, "1"), "create", "search")
    show(secret, "1")
    (secret / "keys").symlink_to("..data/keys")
    server = start("--keys", str(secret / "keys"), "--model", f"m={minilm_path}", "--threads", "1")

    before = [status(server.url, first), status(server.url), status(server.url, first[:-1])]
    second = keys(mounted(secret, "2"), "create", "search")
    show(secret, "2")
    server.until(lambda: status(server.url, second) == 200)
    after = status(server.url, first)
    (secret / "2" / "keys").write_text("{")
    server.until(lambda: status(server.url, second) == 200 and "going on with what was read before" in server.said)

    assert before == [200, 401, 401]
    assert after == 401
    assert first.split("_")[2] not in server.said


@pytest.mark.parametrize("content", [None, "", "{}}"])
def test_without_a_file_that_can_be_read_it_does_not_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)

    command = [sys.executable, "-m", "gateway", "serve", "--port", "0", "--metrics-port", "0", "--keys", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("headrace: ")
    assert str(file) in done.stderr
