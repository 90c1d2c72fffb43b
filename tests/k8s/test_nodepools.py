"""The node pools fit the pods that are meant for them."""

from collections.abc import Callable

import pytest
import yaml

from tests.k8s.manifests import ROOT, Document, Variant, of_kind
from tests.k8s.scaling import bounds
from tests.k8s.schemas import findings

Rendered = Callable[[Variant], list[Document]]


def pool(name: str) -> list[Document]:
    return list(yaml.safe_load_all((ROOT / f"k8s/nodepools/{name}.yaml").read_text()))


def taints() -> dict[str, list[Document]]:
    """What each pool keeps others away with."""
    return {
        "gke": pool("gke")[0]["spec"]["nodeConfig"]["taint"],
        "eksctl": pool("eksctl")[0]["managedNodeGroups"][0]["taints"],
        "karpenter": pool("karpenter")[0]["spec"]["template"]["spec"]["taints"],
    }


@pytest.mark.usefixtures("operators")
def test_the_operators_know_every_field() -> None:
    """Not eksctl: no registry has a model of its file."""
    assert findings([*pool("gke"), *pool("karpenter")]) == []


def test_the_server_tolerates_what_the_nodes_are_tainted_with(rendered: Rendered) -> None:
    server = of_kind(rendered(Variant("gpu-pool")), "Deployment")[0]["spec"]["template"]["spec"]

    assert {toleration["key"] for toleration in server["tolerations"]} == {"nvidia.com/gpu"}
    for each in taints().values():
        assert [(taint["key"], taint["effect"].replace("_", "").lower()) for taint in each] == [
            ("nvidia.com/gpu", "noschedule")
        ]


def test_a_pool_has_a_node_for_every_replica(rendered: Rendered) -> None:
    _, most = bounds(of_kind(rendered(Variant("gpu-pool")), "ScaledObject")[0])

    assert pool("gke")[0]["spec"]["autoscaling"]["totalMaxNodeCount"] >= most
    assert pool("eksctl")[0]["managedNodeGroups"][0]["maxSize"] >= most
    assert pool("karpenter")[0]["spec"]["limits"]["nvidia.com/gpu"] >= most


def test_karpenter_is_told_the_labels_that_the_server_asks_for(rendered: Rendered) -> None:
    server = of_kind(rendered(Variant("eks")), "Deployment")[0]["spec"]["template"]["spec"]
    terms = server["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    labels = pool("karpenter")[0]["spec"]["template"]["metadata"]["labels"]

    for wanted in terms[0]["matchExpressions"]:
        assert wanted["operator"] == "Gt"
        assert int(labels[wanted["key"]]) > int(wanted["values"][0])
