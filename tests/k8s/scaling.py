"""Checks of how many: replicas, autoscalers, quotas, rollouts and disruptions."""

from collections.abc import Iterator

from gateway.hpa import DOWN, Policy, Rules
from gateway.plan import SURGE
from tests.k8s.manifests import Document, name, of_kind
from tests.k8s.pods import containers, extended

SERVER = "Deployment headrace"


def findings(documents: list[Document]) -> Iterator[str]:
    """What is wrong with the numbers of pods."""
    server = next(each for each in of_kind(documents, "Deployment") if name(each) == SERVER)
    autoscalers = of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject")
    if len(autoscalers) > 1:
        yield "two autoscalers would fight"
    if autoscalers and "replicas" in server["spec"]:
        yield f"{SERVER}: names replicas, which every apply would give back"
    if not autoscalers and "replicas" not in server["spec"]:
        yield f"{SERVER}: nobody says how many"
    for autoscaler in autoscalers:
        yield from (f"{name(autoscaler)}: {problem}" for problem in _autoscaler(autoscaler))
    yield from (f"{SERVER}: {problem}" for problem in _rollout(server["spec"]["strategy"]["rollingUpdate"]))
    most = max([bounds(each)[1] for each in autoscalers], default=server["spec"].get("replicas", 1))
    yield from _quota(documents, most)
    yield from _budget(documents)
    yield from _warm(documents, server)


def bounds(autoscaler: Document) -> tuple[int, int]:
    """The fewest and the most pods."""
    spec = autoscaler["spec"]
    if autoscaler["kind"] == "ScaledObject":
        return spec.get("minReplicaCount", 0), spec["maxReplicaCount"]
    return spec.get("minReplicas", 1), spec["maxReplicas"]


def _autoscaler(autoscaler: Document) -> Iterator[str]:
    spec, (least, most) = autoscaler["spec"], bounds(autoscaler)
    target = spec["scaleTargetRef"]
    if (target.get("kind", "Deployment"), target["name"]) != ("Deployment", "headrace"):
        yield f"scales {target['name']}, which is not the server"
    if not 1 <= least <= most:
        yield f"from {least} to {most} pods is no range that serves"
    behavior = spec.get("behavior") or spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    if (_rules(behavior["scaleUp"]), _rules(behavior["scaleDown"])) != (SURGE, DOWN):
        yield "moves otherwise than `headrace plan` simulates"
    for metric in spec.get("metrics", []):
        aim = metric.get("external", {}).get("target", {})
        if aim.get("type") != "AverageValue" or "averageValue" not in aim:
            yield "its target is not an average of an external sum"
    for trigger in spec.get("triggers", []):
        if trigger.get("metricType") != "AverageValue":
            yield "its target is not an average of a sum"
        if trigger["type"] == "prometheus" and trigger["metadata"].get("ignoreNullValues") != "false":
            yield "takes no data for no demand"
    if autoscaler["kind"] == "ScaledObject" and spec.get("fallback", {}).get("behavior") != "currentReplicasIfHigher":
        yield "would let pods go when metrics cannot be read"


def _rules(direction: Document) -> Rules:
    policies = [Policy(each["type"].lower(), each["value"], each["periodSeconds"]) for each in direction["policies"]]
    return Rules(tuple(policies), direction["stabilizationWindowSeconds"])


def _rollout(rolling: Document) -> Iterator[str]:
    if not rolling["maxSurge"] and not rolling["maxUnavailable"]:
        yield "a rollout could never begin"


def _quota(documents: list[Document], most: int) -> Iterator[str]:
    """All pods at once, one more in a rollout with a surge, must fit the quota of their device."""
    wanted: dict[str, int] = {}
    for workload in of_kind(documents, "Deployment"):
        rolling = workload["spec"].get("strategy", {}).get("rollingUpdate", {"maxSurge": 1})  # 25 %, rounded up
        count = most if name(workload) == SERVER else workload["spec"]["replicas"]
        for container in containers(workload["spec"]["template"]):
            for device, each in extended(container["resources"]["limits"]).items():
                wanted[device] = wanted.get(device, 0) + each * (count + rolling.get("maxSurge", 0))
    allowed = {
        resource.removeprefix("requests."): int(amount)
        for quota in of_kind(documents, "ResourceQuota")
        for resource, amount in quota["spec"]["hard"].items()
    }
    for device, count in wanted.items():
        if count > allowed.get(device, 0):
            yield f"{count} x {device} are wanted, and the quota is {allowed.get(device, 0)}"


def _budget(documents: list[Document]) -> Iterator[str]:
    budgets = of_kind(documents, "PodDisruptionBudget")
    if not any(each["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow" for each in budgets):
        yield "a pod that cannot start would block the drain of its node"
    for budget in budgets:
        if budget["spec"].get("maxUnavailable") != 1:
            yield f"{name(budget)}: lets no pod go, or many at once"


def _warm(documents: list[Document], server: Document) -> Iterator[str]:
    """A pod that keeps a node warm must be on one that the server can take."""
    wanted = placement(server["spec"]["template"]["spec"])
    for workload in of_kind(documents, "Deployment"):
        if workload is not server and not any(
            term in wanted for term in placement(workload["spec"]["template"]["spec"])
        ):
            yield f"{name(workload)}: holds nodes that the server cannot use"


def placement(spec: Document) -> list[set[tuple[str, str, str]]]:
    """What a node must have: each a choice of its own, of label, operator and value."""
    labels = {(key, "In", value) for key, value in spec.get("nodeSelector", {}).items()}
    needed = spec.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = [
        {(each["key"], each["operator"], ",".join(each["values"])) for each in term["matchExpressions"]}
        for term in needed.get("nodeSelectorTerms", [{"matchExpressions": []}])
    ]
    return [labels | term for term in terms]
