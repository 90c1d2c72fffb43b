"""Every metric that a dashboard, an alert or an autoscaler reads is one that the server has."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.conftest import skip
from tests.gateway.fakes import ready
from tests.k8s.manifests import ROOT, Document, Variant, of_kind

Rendered = Callable[[Variant], list[Document]]

COMPONENTS = ROOT / "k8s/components"
FOREIGN = {"kube_deployment_status_replicas_ready"}  # of kube-state-metrics


def dashboard() -> Iterator[str]:
    for panel in json.loads((COMPONENTS / "grafana-dashboards/headrace.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m")


def alerts() -> Iterator[str]:
    rules = yaml.safe_load((COMPONENTS / "prometheus-rules/rules.yaml").read_text())
    yield from (rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"])


def autoscalers(rendered: Rendered) -> Iterator[str]:
    for autoscaler in ("keda", "keda-prometheus"):
        for scaled in of_kind(rendered(Variant("gpu-pool", (), autoscaler)), "ScaledObject"):
            for trigger in scaled["spec"]["triggers"]:
                yield trigger["metadata"].get("query") or trigger["metadata"]["valueLocation"]
    external = of_kind(rendered(Variant("gpu-pool", (), "hpa")), "HorizontalPodAutoscaler")[0]
    yield external["spec"]["metrics"][0]["external"]["metric"]["name"]
    rules = yaml.safe_load((COMPONENTS / "hpa/adapter-rules.yaml").read_text())["rules"]["external"]
    yield from (rule["seriesQuery"] for rule in rules)


def vectors(node: Any) -> Iterator[Any]:
    """Every choice of series in a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for part in ("expr", "lhs", "rhs", "vector_selector"):
        if hasattr(node, part):
            yield from vectors(getattr(node, part))
    for argument in getattr(node, "args", None) or []:
        yield from vectors(argument)


async def samples() -> dict[str, set[str]]:
    """The names on the metrics page of a gateway that has answered and refused, with their labels."""
    async with ready() as subject:
        await subject.embed({"model": "tiny", "input": "w0"})
        families = list(subject.metrics.registry.collect())
    names = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    kinds = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
    return {f"{each.name}{end}": names.get(f"{each.name}{end}", set()) for each in families for end in kinds[each.type]}


@pytest.mark.anyio
async def test_what_is_read_is_what_the_server_has(rendered: Rendered) -> None:
    known = await samples()
    read = [*dashboard(), *alerts(), *autoscalers(rendered)]

    for expression in read:
        names = [vector.name for vector in vectors(promql_parser.parse(expression))]
        assert names, expression
        assert set(names) <= known.keys() | FOREIGN, expression


@pytest.mark.anyio
async def test_what_is_chosen_by_are_labels_that_the_metric_has() -> None:
    known = await samples()

    for expression in [*dashboard(), *alerts()]:
        for vector in vectors(promql_parser.parse(expression)):
            chosen = {matcher.name for matcher in vector.matchers.matchers} - {"namespace", "__name__"}
            assert not known.get(vector.name) or chosen <= known[vector.name], expression


def test_only_what_grows_is_read_as_a_rate() -> None:
    for expression in [*dashboard(), *alerts()]:
        for name in rates(promql_parser.parse(expression)):
            assert name.endswith(("_total", "_bucket", "_count", "_sum")), expression


def test_every_alert_says_what_to_do() -> None:
    rules = yaml.safe_load((COMPONENTS / "prometheus-rules/rules.yaml").read_text())
    runbook = (ROOT / "k8s/README.md").read_text().lower()

    for rule in (rule for group in rules["spec"]["groups"] for rule in group["rules"]):
        file, heading = rule["annotations"]["runbook"].split(": ")
        assert file == "k8s/README.md"
        assert f"### {heading}" in runbook


@pytest.mark.slow
def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    if not shutil.which("promtool"):
        skip("promtool is not installed: Debian's package prometheus")
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(yaml.safe_load((COMPONENTS / "prometheus-rules/rules.yaml").read_text())["spec"]))

    done = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def rates(node: Any) -> Iterator[str]:
    """The names of the series that rate() is asked of."""
    if isinstance(node, promql_parser.Call) and node.func.name == "rate":
        yield from (vector.name for vector in vectors(node))
        return
    for part in ("expr", "lhs", "rhs"):
        if hasattr(node, part):
            yield from rates(getattr(node, part))
    for argument in getattr(node, "args", None) or []:
        yield from rates(argument)
