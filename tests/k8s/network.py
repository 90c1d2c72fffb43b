"""Checks of who reaches whom: selectors, ports, routes and the openings of the NetworkPolicies."""

import re
from collections.abc import Iterator

from tests.k8s.manifests import Document, name, of_kind
from tests.k8s.pods import Pod, containers, pods

ADDRESS = re.compile(
    r"http://(?P<service>[\w-]+)\.(?P<namespace>[\w-]+)\.svc\.cluster\.local:(?P<port>\d+)(?P<path>/\S*)?"
)
EGRESS = "Job headrace-model-fetch"  # the only pod that reaches the outside
COLLECTOR = "OTEL_EXPORTER_OTLP_ENDPOINT"
NAMESPACE = "kubernetes.io/metadata.name"
SERVER = "Deployment headrace"
LOCAL_DNS = {"ipBlock": {"cidr": "169.254.20.10/32"}}  # on the node's network: no label chooses it


def findings(documents: list[Document]) -> Iterator[str]:
    """What is wrong between the objects that carry traffic."""
    for workload in of_kind(documents, "Deployment"):
        chosen, labels = workload["spec"]["selector"]["matchLabels"], workload["spec"]["template"]["metadata"]["labels"]
        if not chosen.items() <= labels.items():
            yield f"{name(workload)}: its selector does not choose its own pods"
    for service in of_kind(documents, "Service"):
        yield from (f"{name(service)}: {problem}" for problem in _service(service, documents))
    for route in of_kind(documents, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for target in rule["backendRefs"]:
                if target["port"] not in _ports(documents, target["name"]).values():
                    yield f"{name(route)}: there is no Service {target['name']} with port {target['port']}"
    for ingress in of_kind(documents, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                target = path["backend"]["service"]
                if target["port"]["name"] not in _ports(documents, target["name"]):
                    yield f"{name(ingress)}: there is no Service {target['name']} with port {target['port']['name']}"
    yield from _monitors(documents)
    yield from _policies(documents)
    yield from _addresses(documents)
    yield from _collector(documents)
    yield from _name_servers(documents)


def chosen(selector: dict[str, str], documents: list[Document]) -> list[tuple[str, Pod]]:
    """The pods that carry these labels."""
    return [(owner, pod) for owner, pod in pods(documents) if selector.items() <= pod["metadata"]["labels"].items()]


def port_names(pod: Pod) -> dict[str, int]:
    """A pod's ports by name."""
    return {port["name"]: port["containerPort"] for each in containers(pod) for port in each.get("ports", [])}


def _service(service: Document, documents: list[Document]) -> Iterator[str]:
    behind = chosen(service["spec"]["selector"], documents)
    if [owner for owner, _ in behind] != ["Deployment headrace"]:
        yield f"chooses {[owner for owner, _ in behind]} and not the server alone"
    for _, pod in behind:
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in port_names(pod):
                yield f"target port {port['targetPort']} is none of the pod's"


def _ports(documents: list[Document], service: str) -> dict[str, int]:
    found = [each for each in of_kind(documents, "Service") if each["metadata"]["name"] == service]
    return {port["name"]: port["port"] for each in found for port in each["spec"]["ports"]}


def _monitors(documents: list[Document]) -> Iterator[str]:
    for monitor in of_kind(documents, "PodMonitor"):
        behind = chosen(monitor["spec"]["selector"]["matchLabels"], documents)
        wanted = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
        if not behind or not all(wanted <= port_names(pod).keys() for _, pod in behind):
            yield f"{name(monitor)}: chooses no pod with port {wanted}"
    for monitor in of_kind(documents, "ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"].items()
        wanted = {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}
        behind = [each for each in of_kind(documents, "Service") if labels <= each["metadata"]["labels"].items()]
        if not behind or not all(wanted <= _ports(documents, each["metadata"]["name"]).keys() for each in behind):
            yield f"{name(monitor)}: chooses no Service with port {wanted}"
    if len(of_kind(documents, "PodMonitor", "ServiceMonitor")) > 1:
        yield "two monitors: every sample would count twice"


def _policies(documents: list[Document]) -> Iterator[str]:
    policies = of_kind(documents, "NetworkPolicy")
    closed = [
        policy
        for policy in policies
        if policy["spec"]["podSelector"] == {}
        and sorted(policy["spec"]["policyTypes"]) == ["Egress", "Ingress"]
        and not policy["spec"].get("ingress")
        and not policy["spec"].get("egress")
    ]
    if not closed:
        yield "no NetworkPolicy denies what the others do not allow"
    for policy in policies:
        if policy in closed:
            continue
        behind = chosen(policy["spec"]["podSelector"].get("matchLabels", {}), documents)
        if len(behind) != 1:
            yield f"{name(policy)}: chooses {[owner for owner, _ in behind]}, not one pod"
        for opening in policy["spec"].get("ingress", []):
            ports = {port["port"] for port in opening.get("ports", [])}
            if not opening.get("from") or not ports or not all(ports <= port_names(pod).keys() for _, pod in behind):
                yield f"{name(policy)}: opens more than a port of the pod to somebody"
        owners, ways = [owner for owner, _ in behind], policy["spec"].get("egress", [])
        if owners != [EGRESS] and not all(_narrow(way) or _to_the_server(way, documents) for way in ways):
            yield f"{name(policy)}: lets {owners} out"


def _narrow(way: Document) -> bool:
    """Whether a way out leads to certain ports of certain pods of certain namespaces, or to the node's name server."""
    names = {port["port"] for port in way.get("ports", [])} == {53}
    peers = [peer for peer in way.get("to", []) if not (names and peer == LOCAL_DNS)]
    by_labels = [peer.get("namespaceSelector") and peer.get("podSelector") for peer in peers]
    return bool(way.get("ports") and by_labels and all(by_labels))


def _name_servers(documents: list[Document]) -> Iterator[str]:
    """Who may go out by name must be let to the cluster's name server, and to the one on its node."""
    for policy in of_kind(documents, "NetworkPolicy"):
        ways = policy["spec"].get("egress", [])
        asked = [way for way in ways if {port["port"] for port in way.get("ports", [])} == {53}]
        protocols = {port.get("protocol") for way in asked for port in way["ports"]}
        if ways and (not asked or protocols != {"UDP", "TCP"} or not all(LOCAL_DNS in way["to"] for way in asked)):
            yield f"{name(policy)}: lets nobody ask for a name"


def _collector(documents: list[Document]) -> Iterator[str]:
    """Where traces go must be open to the pods that send them."""
    for owner, pod in pods(documents):
        told = [each["value"] for one in containers(pod) for each in one.get("env", []) if each["name"] == COLLECTOR]
        for url in told:
            address = ADDRESS.fullmatch(url)
            if not address or (address["namespace"], int(address["port"])) not in _ways_out(pod, documents):
                yield f"{owner}: no NetworkPolicy lets it reach {url}"


def _ways_out(pod: Pod, documents: list[Document]) -> set[tuple[str, int]]:
    """The namespaces and ports that the policies of a pod let it reach by labels."""
    labels = pod["metadata"]["labels"].items()
    specs = [policy["spec"] for policy in of_kind(documents, "NetworkPolicy")]
    own = [spec for spec in specs if spec["podSelector"].get("matchLabels", {}).items() <= labels]
    return {
        (peer.get("namespaceSelector", {}).get("matchLabels", {}).get(NAMESPACE), port["port"])
        for spec in own
        for way in spec.get("egress", [])
        for peer in way["to"]
        for port in way["ports"]
    }


def _to_the_server(way: Document, documents: list[Document]) -> bool:
    """Whether a way out leads to the server's port for callers, and nowhere else."""
    if [[*peer] for peer in way.get("to", [])] != [["podSelector"]]:
        return False
    reached = [owner for owner, _ in chosen(way["to"][0]["podSelector"].get("matchLabels", {}), documents)]
    return reached == [SERVER] and [port["port"] for port in way.get("ports", [])] == ["http"]


def _addresses(documents: list[Document]) -> Iterator[str]:
    """In-cluster addresses of our own Services, as an autoscaler has them in its text."""
    for scaled in of_kind(documents, "ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            address = ADDRESS.fullmatch(trigger["metadata"].get("url", ""))
            if trigger["type"] != "metrics-api":
                continue
            own = address and address["namespace"] == scaled["metadata"]["namespace"]
            if not address or not own or int(address["port"]) not in _ports(documents, address["service"]).values():
                yield f"{name(scaled)}: {trigger['metadata'].get('url')} is no port of a Service here"
