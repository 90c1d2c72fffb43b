"""Every metric that a dashboard, an alert or an autoscaler reads is one that the server has."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from gateway.gpu_metrics import GpuMetrics
from gateway.gpus import Sight
from inference import Limits
from tests.gateway.fakes import ready
from tests.gateway.test_nvml import GPU
from tests.k8s.manifests import ROOT, Document, Variant, of_kind

Rendered = Callable[[Variant], list[Document]]

COMPONENTS = ROOT / "k8s/components"
FOREIGN = {  # of kube-state-metrics
    "kube_deployment_status_replicas_ready",
    "kube_deployment_status_replicas_unavailable",
    "kube_horizontalpodautoscaler_spec_max_replicas",
    "kube_horizontalpodautoscaler_status_desired_replicas",
    "kube_pod_container_status_last_terminated_exitcode",
    "kube_pod_container_status_restarts_total",
    "kube_pod_status_phase",
}


def dashboards() -> Iterator[str]:
    for file in sorted((COMPONENTS / "grafana-dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield target["expr"].replace("$__rate_interval", "1m").replace("$namespace", ".*")


def rules() -> list[dict[str, Any]]:
    manifest = yaml.safe_load((COMPONENTS / "prometheus-rules/rules.yaml").read_text())
    return [rule for group in manifest["spec"]["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def watched() -> list[str]:
    """What people look at, and what calls them."""
    return [*dashboards(), *(rule["expr"] for rule in rules())]


def autoscalers(rendered: Rendered) -> Iterator[str]:
    for autoscaler in ("keda", "keda-prometheus"):
        for scaled in of_kind(rendered(Variant("gpu-pool", (), autoscaler)), "ScaledObject"):
            for trigger in scaled["spec"]["triggers"]:
                yield trigger["metadata"].get("query") or trigger["metadata"]["valueLocation"]
    external = of_kind(rendered(Variant("gpu-pool", (), "hpa")), "HorizontalPodAutoscaler")[0]
    yield external["spec"]["metrics"][0]["external"]["metric"]["name"]
    adapter = yaml.safe_load((COMPONENTS / "hpa/adapter-rules.yaml").read_text())["rules"]["external"]
    yield from (rule["seriesQuery"] for rule in adapter)


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
    """The names on the metrics page of a gateway with a GPU that has answered, and those of rules; with labels."""
    async with ready() as subject:
        subject.metrics.registry.register(GpuMetrics(lambda: Sight((GPU,), well=True)))
        await subject.embed({"model": "tiny", "input": "w0"})
        families = list(subject.metrics.registry.collect())
    names = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    kinds = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
    own = {f"{each.name}{end}": names.get(f"{each.name}{end}", set()) for each in families for end in kinds[each.type]}
    return own | {rule["record"]: {"namespace"} for rule in rules() if "record" in rule}


@pytest.mark.anyio
async def test_what_is_read_is_what_the_server_has(rendered: Rendered) -> None:
    known = await samples()
    read = [*watched(), *autoscalers(rendered)]

    for expression in read:
        names = [vector.name for vector in vectors(promql_parser.parse(expression))]
        assert names, expression
        assert set(names) <= known.keys() | FOREIGN, expression


@pytest.mark.anyio
async def test_what_is_chosen_by_are_labels_that_the_metric_has() -> None:
    known = await samples()

    for expression in watched():
        for vector in vectors(promql_parser.parse(expression)):
            chosen = {matcher.name for matcher in vector.matchers.matchers} - {"namespace", "__name__"}
            assert not known.get(vector.name) or chosen <= known[vector.name], expression


def test_only_what_grows_is_read_as_a_rate() -> None:
    for expression in watched():
        for name in rates(promql_parser.parse(expression)):
            assert name.endswith(("_total", "_bucket", "_count", "_sum")), expression


def test_every_alert_says_what_to_do() -> None:
    runbook = (ROOT / "k8s/README.md").read_text().lower()

    for alert in alerts():
        file, heading = alert["annotations"]["runbook"].split(": ")
        assert file == "k8s/README.md"
        assert f"### {heading}\n" in runbook


def test_the_objective_is_the_default_latency_target() -> None:
    edges = {edge for expression in watched() for edge in re.findall(r'le="([^"]+)"', expression)}

    assert edges == {str(Limits().latency_target_s)}


def test_the_rules_want_as_many_replicas_as_the_autoscaler_makes(rendered: Rendered) -> None:
    [wanted] = [rule["expr"] for rule in rules() if rule.get("record") == "headrace:replicas_wanted"]
    scaled = of_kind(rendered(Variant("gpu-pool")), "ScaledObject")[0]

    assert wanted.endswith(f"/ {scaled['spec']['triggers'][0]['metadata']['targetValue']})")


def test_compose_has_the_same_rules() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    [script] = re.findall(r"sed '([^']+)'", compose["services"]["prometheus"]["command"][0])
    manifest = COMPONENTS / "prometheus-rules/rules.yaml"

    plain = subprocess.run(["sed", script, manifest], capture_output=True, text=True, check=True).stdout

    assert yaml.safe_load(plain) == yaml.safe_load(manifest.read_text())["spec"]


def rates(node: Any) -> Iterator[str]:
    """The names of the series that rate() or increase() is asked of."""
    if isinstance(node, promql_parser.Call) and node.func.name in {"rate", "increase"}:
        yield from (vector.name for vector in vectors(node))
        return
    for part in ("expr", "lhs", "rhs"):
        if hasattr(node, part):
            yield from rates(getattr(node, part))
    for argument in getattr(node, "args", None) or []:
        yield from rates(argument)
