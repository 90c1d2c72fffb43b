"""Checks of pods that no schema can see: security, images, GPUs, mounts and references."""

import re
from collections.abc import Iterator
from typing import Any

from tests.k8s.manifests import Document, name, of_kind

TAG = re.compile(r"[^:@\s]+(:\d+)?(/[^:@\s]+)*:(?!latest$)[\w.-]+(@sha256:[0-9a-f]{64})?")
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
BY_HAND = {"headrace-keys", "headrace-loadtest-key"}
SHARED_WITH_HOST = ("hostNetwork", "hostPID", "hostIPC")
MAY_WRITE_ROOT = "headrace"  # the container that writable-rootfs opens

Pod = dict[str, Any]


def pods(documents: list[Document]) -> list[tuple[str, Pod]]:
    """The pod template of every workload, with the workload's name."""
    return [(name(each), each["spec"]["template"]) for each in of_kind(documents, "Deployment", "Job")]


def containers(pod: Pod) -> list[Document]:
    """All containers of a template, those that run first too."""
    found: list[Document] = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    return found


def extended(amounts: Document) -> dict[str, int]:
    """The devices among a container's resources, by their name."""
    return {key: int(value) for key, value in amounts.items() if key.startswith("nvidia.com/")}


def findings(documents: list[Document], *, writable_root: bool) -> Iterator[str]:
    """What is wrong with the pods; `writable_root` if the server's container was opened on purpose."""
    for owner, pod in pods(documents):
        yield from (f"{owner}: {problem}" for problem in _pod(pod["spec"]))
        yield from (f"{owner}: {problem}" for problem in _references(pod["spec"], documents))
        for container in containers(pod):
            opened = writable_root and container["name"] == MAY_WRITE_ROOT
            yield from (f"{owner}/{container['name']}: {problem}" for problem in _container(container, opened=opened))
            yield from (f"{owner}/{container['name']}: {problem}" for problem in _mounts(container, pod["spec"]))


def _pod(spec: Document) -> Iterator[str]:
    """Pod Security `restricted`, and what this project asks for beyond it."""
    security = spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        yield "may run as root"
    if security.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "has no seccomp profile"
    yield from (f"{key} is on" for key in SHARED_WITH_HOST if spec.get(key))
    yield from (
        f"volume {volume['name']} is of a kind that `restricted` refuses"
        for volume in spec.get("volumes", [])
        if not VOLUMES & volume.keys()
    )
    if spec.get("automountServiceAccountToken") is not False:
        yield "gets a token of the API server"
    if spec.get("enableServiceLinks") is not False:
        yield "gets variables of every Service"
    for term in spec.get("topologySpreadConstraints", []):
        if term["whenUnsatisfiable"] != "ScheduleAnyway":
            yield "a hard spread can leave a GPU unused"


def _container(container: Document, *, opened: bool) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield "may gain privileges"
    if security.get("capabilities", {}).get("drop") != ["ALL"] or security["capabilities"].get("add"):
        yield "keeps capabilities"
    if security.get("readOnlyRootFilesystem") is not True and not opened:
        yield "has a writable root"
    if security.get("runAsUser") == 0 or security.get("runAsNonRoot") is False:
        yield "may run as root"
    if not TAG.fullmatch(container["image"]):
        yield f"image {container['image']} has no fixed tag"
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    if extended(requests) != extended(limits):
        yield f"GPUs requested {extended(requests)} are not those of the limit {extended(limits)}"
    if requests["memory"] != limits["memory"]:
        yield "memory requested is not the limit"


def _mounts(container: Document, spec: Document) -> Iterator[str]:
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            yield f"mounts {mount['name']}, which is no volume"


def _references(spec: Document, documents: list[Document]) -> Iterator[str]:
    """What a pod names must be in the same apply, but for the Secrets of keys, which people make by hand."""
    made = {name(document) for document in documents}
    wanted = {f"ServiceAccount {spec.get('serviceAccountName')}"}
    if "priorityClassName" in spec:
        wanted.add(f"PriorityClass {spec['priorityClassName']}")
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            wanted.add(f"ConfigMap {volume['configMap']['name']}")
        if "persistentVolumeClaim" in volume:
            wanted.add(f"PersistentVolumeClaim {volume['persistentVolumeClaim']['claimName']}")
        if "secret" in volume and volume["secret"]["secretName"] not in BY_HAND:
            wanted.add(f"Secret {volume['secret']['secretName']}")
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        wanted |= {f"ConfigMap {one['configMapRef']['name']}" for one in container.get("envFrom", [])}
    yield from (f"needs {missing}, which is not there" for missing in sorted(wanted - made))
