"""What people watch, in a real Prometheus over the real server under load: no panel is empty, and an alert arrives."""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from k8s.dashboards.screens import SCREENS
from tests.e2e.conftest import Headrace
from tests.e2e.watching import (
    NAMESPACE,
    Prometheus,
    alertmanager,
    kube_state_metrics,
    load,
    prometheus,
    receiver,
    tool,
)
from tests.k8s.manifests import ROOT
from tests.k8s.test_metrics import rules, vectors
from tests.nvml import ORDERS, Orders, compiled
from tests.tiny import save_tiny

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FOLDER = ROOT / "k8s/components/grafana-dashboards"
ASKS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"input": ["w9 w10", "w11"]}, {}),
    ({"input": [f"w{number}" for number in range(20, 220)]}, {"x-request-timeout-ms": "1"}),  # out of reach
    ({"input": ""}, {}),  # invalid
    ({"input": "w4"}, {}),  # fails
]


@dataclass
class Watch:
    """All that runs."""

    prometheus: Prometheus
    server: Headrace
    arrived: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """A server beside a driver that answers, under load, watched."""
    tool("prometheus")
    tool("prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("watch")
    arrived: list[dict[str, Any]] = []
    Orders(folder / "orders")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LD_LIBRARY_PATH", str(compiled(folder)))
            patch.setenv(ORDERS, str(folder / "orders"))
            model = str(save_tiny("bert", folder / "bert"))
            server = Headrace(folder / "server.log", "--model", model, "--no-access-log", module="tests.e2e.faulty")
        stack.callback(server.process.wait)
        stack.callback(server.process.kill)
        stack.enter_context(load(server.url, ASKS))
        alerts = stack.enter_context(alertmanager(folder, stack.enter_context(receiver(arrived))))
        exporter = stack.enter_context(kube_state_metrics())
        yield Watch(stack.enter_context(prometheus(folder, server.metrics, exporter, alerts)), server, arrived)


def queries(file: Path) -> list[tuple[str, str]]:
    """Each panel's queries, as Grafana would send them."""
    return [
        (
            f"{panel['title']}, {target['legendFormat']}",
            target["expr"].replace("$__rate_interval", "10s").replace("$namespace", NAMESPACE),
        )
        for panel in json.loads(file.read_text())["panels"]
        for target in panel["targets"]
    ]


@pytest.mark.parametrize("uid", [screen.uid for screen in SCREENS])
def test_no_panel_is_empty(watch: Watch, uid: str) -> None:
    watch.prometheus.until(lambda: watch.prometheus.ask("headrace:slow:ratio_rate3d"), "no rule was evaluated")

    for name, expression in queries(FOLDER / f"{uid}.json"):
        watch.prometheus.until(
            lambda asked=expression: any(map(math.isfinite, watch.prometheus.ask(asked))), f"{name}: {expression}"
        )


def test_every_metric_that_is_named_exists(watch: Watch) -> None:
    expressions = [asked for screen in SCREENS for _, asked in queries(FOLDER / f"{screen.uid}.json")]
    expressions += [rule["expr"] for rule in rules()]

    named = {vector.name for each in expressions for vector in vectors(promql_parser.parse(each))}

    watch.prometheus.until(
        lambda: named <= watch.prometheus.names(), f"missing: {sorted(named - watch.prometheus.names())}"
    )


def test_an_alert_arrives(watch: Watch) -> None:
    def pages() -> list[dict[str, Any]]:
        return [each for each in watch.arrived if each["labels"]["alertname"] == "HeadraceAvailabilityBurnsFast"]

    watch.prometheus.until(pages, f"arrived: {watch.arrived}")

    assert pages()[0]["status"] == "firing"
    assert pages()[0]["labels"] == {
        "alertname": "HeadraceAvailabilityBurnsFast",
        "namespace": NAMESPACE,
        "severity": "page",
    }
    assert not [
        each for each in watch.arrived if each["labels"]["alertname"] in {"HeadraceAbsent", "HeadraceGpuUnseen"}
    ]
