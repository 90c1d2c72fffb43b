"""Checks against the real server: its flags, settings, routes, ports, drain and default model."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from gateway import __version__
from gateway.__main__ import USAGE
from gateway.config import Settings, load
from gateway.mistakes import SettingsError
from inference.fetch import DEFAULT_MODEL
from tests.gateway.fakes import gateway
from tests.k8s.manifests import Document, name, of_kind
from tests.k8s.network import port_names
from tests.k8s.pods import containers, pods

SERVER = "Deployment headrace"
SLACK_S = 5  # between the server's last second and the kill
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
COMMANDS = set(re.findall(r"^  (\w+) +\w", USAGE, re.MULTILINE))
DURATION = re.compile(r"(\d+)s")


def findings(documents: list[Document]) -> Iterator[str]:
    """Where the manifests and the server disagree."""
    settings = None
    for owner, pod in pods(documents):
        for container in containers(pod):
            if "/headrace:" not in f"/{container['image']}":
                continue
            if not container["image"].partition("@")[0].split(":")[-1].startswith(f"{__version__}-"):
                yield f"{owner}/{container['name']}: image {container['image']} is not of version {__version__}"
            if "args" in container:
                try:
                    settings = settings_of(container, documents) if owner == SERVER else settings
                    _accepted(container, documents)
                except (SettingsError, ValueError) as error:
                    yield f"{owner}/{container['name']}: {error}"
    if settings is not None:
        server = next(each for each in of_kind(documents, "Deployment") if name(each) == SERVER)
        yield from (f"{SERVER}: {problem}" for problem in _listening(server, settings))
        yield from (f"{SERVER}: {problem}" for problem in _keys(server, settings))
        yield from (f"{SERVER}: {problem}" for problem in _drain(server, settings, documents))
        yield from _calls_with_a_key(settings, documents)
    yield from _routes(documents)
    yield from _model(documents)


def environment(container: Document, documents: list[Document]) -> dict[str, str]:
    """The variables that a container is given in the manifests; the image gives it a host too."""
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(documents, "ConfigMap")}
    variables = {"HEADRACE_HOST": "0.0.0.0"}
    for source in container.get("envFrom", []):
        variables |= maps.get(source["configMapRef"]["name"], {})
    return variables | {each["name"]: each.get("value", "") for each in container.get("env", [])}


def settings_of(container: Document, documents: list[Document]) -> Settings:
    """The settings with which a container's command would start; raises SettingsError."""
    return load(container["args"][1:], environment(container, documents))


def _accepted(container: Document, documents: list[Document]) -> None:
    if container["args"][0] not in COMMANDS:
        raise ValueError(f"there is no command {container['args'][0]!r}")
    settings_of(container, documents)


def _listening(server: Document, settings: Settings) -> Iterator[str]:
    pod: Any = server["spec"]["template"]
    ports = {"http": settings.http.port, "metrics": settings.http.metrics_port, "grpc": settings.http.grpc_port}
    listening = {name: port for name, port in ports.items() if port is not None}
    if port_names(pod) != listening:
        yield f"its ports {port_names(pod)} are not those it listens on, {listening}"
    if settings.http.host != "0.0.0.0":
        yield f"listens on {settings.http.host}, where no Service reaches it"
    paths = {route.path for route in gateway().app.routes if hasattr(route, "path")}
    for probe in PROBES:
        asked = pod["spec"]["containers"][0].get(probe, {}).get("httpGet", {})
        if asked.get("path") not in paths or asked.get("port") != "http":
            yield f"{probe} asks for {asked}, which is not served"
    if pod["spec"]["containers"][0].get("livenessProbe", {}).get("httpGet", {}).get("path") == "/readyz":
        yield "a drain would look like a death"


def _keys(server: Document, settings: Settings) -> Iterator[str]:
    """The file of keys must be one of a Secret that is mounted."""
    spec: Any = server["spec"]["template"]["spec"]
    secrets = {volume["name"] for volume in spec["volumes"] if "secret" in volume}
    mounts = {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"] if mount["name"] in secrets}
    if settings.access.keys is None:
        yield "answers whoever reaches it"
    elif str(settings.access.keys.parent) not in mounts:
        yield f"reads its keys from {settings.access.keys}, where no Secret is mounted"


def _calls_with_a_key(settings: Settings, documents: list[Document]) -> Iterator[str]:
    """Where keys are asked for, the load test has one: in a Secret, where its callers' file says."""
    for job in of_kind(documents, "Job"):
        spec = job["spec"]["template"]["spec"]
        if job["metadata"]["name"] != "headrace-loadtest" or settings.access.keys is None:
            continue
        secrets = {volume["name"] for volume in spec["volumes"] if "secret" in volume}
        mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        told = [
            each["data"]["callers.toml"] for each in of_kind(documents, "ConfigMap") if "callers.toml" in each["data"]
        ]
        keys = [caller.get("key_file", "") for text in told for caller in tomllib.loads(text)["caller"]]
        mounted = [mounts[name] for name in secrets & mounts.keys()]
        if not keys or not all(str(PurePath(key).parent) in mounted for key in keys):
            yield f"{name(job)}: calls without a key of a Secret"


def _drain(server: Document, settings: Settings, documents: list[Document]) -> Iterator[str]:
    spec = server["spec"]["template"]["spec"]
    asleep = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    needed = asleep + settings.drain.drain_delay_s + settings.drain.drain_timeout_s + SLACK_S
    if not asleep:
        yield "is stopped before endpoints have noticed"
    if spec["terminationGracePeriodSeconds"] < needed:
        yield f"is killed after {spec['terminationGracePeriodSeconds']} s, and its drain may take {needed:g} s"
    if settings.deadlines.max_timeout_s > settings.drain.drain_timeout_s:
        yield "a call may outlive the drain"
    for route in of_kind(documents, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            timeout = DURATION.fullmatch(rule.get("timeouts", {}).get("request", ""))
            if timeout is None or int(timeout[1]) > settings.drain.drain_timeout_s:
                yield f"{name(route)}: waits longer than the drain"


def _routes(documents: list[Document]) -> Iterator[str]:
    """What is published must lead somewhere, and never to the probes or the metrics."""
    paths = [route.path for route in gateway().app.routes if hasattr(route, "path")]
    published = [
        (name(route), match["path"]["value"])
        for route in of_kind(documents, "HTTPRoute")
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    ] + [
        (name(ingress), path["path"])
        for ingress in of_kind(documents, "Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    for owner, prefix in published:
        behind = [path for path in paths if path.startswith(prefix)]
        if not behind or {"/livez", "/readyz", "/docs"} & set(behind):
            yield f"{owner}: {prefix} publishes {behind or 'nothing'}"


def _model(documents: list[Document]) -> Iterator[str]:
    """The pinned sums are those of the built-in model, or have a line for each folder that is served instead."""
    path = f"models/{DEFAULT_MODEL.name}-{DEFAULT_MODEL.wheel_sha256[:12]}/model.safetensors"
    maps = [each["data"] for each in of_kind(documents, "ConfigMap")]
    sums = "".join(data.get("SHA256SUMS", "") for data in maps)
    served = [model for data in maps for model in data.get("HEADRACE_MODEL", "").split(",") if model]
    if not served and f"{DEFAULT_MODEL.weights_sha256}  {path}\n" != sums:
        yield "SHA256SUMS is not that of the built-in model"
    for model in served:
        if f"  {model.partition('=')[2].removeprefix('/models/')}/" not in sums:
            yield f"model {model} has no sum in SHA256SUMS"
