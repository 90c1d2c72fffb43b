"""Prometheus, Alertmanager, and what stands around them: on loopback, for as long as a test wants."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.conftest import skip
from tests.k8s.balancer import free_port
from tests.k8s.manifests import ROOT

KUBE_STATE = Path(__file__).with_name("kube_state_metrics.txt")  # as kube-state-metrics tells of one pod
RULES = ROOT / "k8s/components/prometheus-rules/rules.yaml"
NAMESPACE = "headrace"
PATIENCE_S = 200.0  # of a machine that does much else


class Prometheus:
    """A Prometheus that scrapes every second."""

    def __init__(self, port: int) -> None:
        self._ready = f"http://127.0.0.1:{port}/-/ready"
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ready(self) -> bool:
        """Whether it may be asked."""
        try:
            return httpx2.get(self._ready, timeout=30.0).status_code == 200
        except httpx2.TransportError:
            return False

    def ask(self, expression: str) -> list[float]:
        """The values that a query gives now; raises AssertionError where it is no query."""
        answer = httpx2.get(f"{self._url}/query", params={"query": expression}, timeout=30.0).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        return [float(one["value"][1]) for one in answer["data"]["result"]]

    def names(self) -> set[str]:
        """Every metric that it knows."""
        return set(httpx2.get(f"{self._url}/label/__name__/values", timeout=30.0).json()["data"])

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for what only time can bring."""
        give_up = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up, what
            time.sleep(1.0)


def tool(name: str) -> str:
    """A program of Debian's packages prometheus and prometheus-alertmanager."""
    found = shutil.which(name)
    if found is None:
        skip(f"{name} is not installed: Debian's package of that name")
        raise AssertionError
    return found


@contextmanager
def running(log: Path, *command: str) -> Iterator[None]:
    """Run a program beside the test."""
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def prometheus(folder: Path, metrics: str, exporter: int, alertmanager: int) -> Iterator[Prometheus]:
    """Scrape a server and the exporter, with the rules that are shipped; they are evaluated every second."""
    groups = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    rules = {"groups": [{"name": group["name"], "rules": group["rules"]} for group in groups]}
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
        "scrape_configs": [
            scrape("headrace", metrics.removeprefix("http://").removesuffix("/metrics")),
            scrape("kube-state-metrics", f"127.0.0.1:{exporter}"),
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = [
        tool("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(folder / "prometheus.log", *command):
        one = Prometheus(port)
        one.until(one.ready, "Prometheus does not start")
        yield one


def scrape(job: str, target: str) -> dict[str, Any]:
    """A job of one target, in the namespace of the manifests."""
    return {
        "job_name": job,
        "honor_labels": True,
        "static_configs": [{"targets": [target], "labels": {"namespace": NAMESPACE}}],
    }


@contextmanager
def alertmanager(folder: Path, receiver: int) -> Iterator[int]:
    """Send every alert to the receiver; gives the port."""
    configuration = {
        "route": {"receiver": "test", "group_wait": "1s", "group_by": ["alertname"]},
        "receivers": [{"name": "test", "webhook_configs": [{"url": f"http://127.0.0.1:{receiver}/"}]}],
    }
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = [
        tool("prometheus-alertmanager"),
        f"--config.file={folder / 'alertmanager.yaml'}",
        f"--storage.path={folder / 'alerts'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with running(folder / "alertmanager.log", *command):
        yield port


@contextmanager
def serving(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """Answer every GET and POST; gives the port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def kube_state_metrics() -> Iterator[int]:
    """Tell what kube-state-metrics would of one pod; gives the port."""
    with serving(lambda _: KUBE_STATE.read_bytes()) as port:
        yield port


@contextmanager
def receiver(arrived: list[dict[str, Any]]) -> Iterator[int]:
    """Take alerts in, as a pager would; gives the port."""

    def take(body: bytes) -> bytes:
        arrived.extend(json.loads(body)["alerts"])
        return b""

    with serving(take) as port:
        yield port


@contextmanager
def load(url: str, asks: list[tuple[dict[str, Any], dict[str, str]]]) -> Iterator[None]:
    """Send bodies with their headers, over and over."""
    enough = threading.Event()

    def call() -> None:
        with httpx2.Client(timeout=30.0) as http:
            while not enough.is_set():
                for body, headers in asks:
                    http.post(f"{url}/v1/embeddings", json=body, headers=headers)
                enough.wait(0.02)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        enough.set()
        for caller in callers:
            caller.join()
