"""Documents against schemas: Kubernetes' own for its oldest and newest version here, and the operators' models."""

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
from kubernetes_validate import SchemaNotFoundError, ValidationError

from tests.k8s.manifests import Document, name

VERSIONS = ("1.30", "1.37")
MODELS = Path(__file__).parent / "models"

# Of Envoy Gateway no models are to be had from a registry: what is used of its BackendTrafficPolicy, by hand.
ENVOY = {
    "BackendTrafficPolicy": {
        "type": "object",
        "required": ["targetRefs", "loadBalancer"],
        "additionalProperties": False,
        "properties": {
            "targetRefs": {
                "type": "array",
                "items": {
                    "required": ["group", "kind", "name"],
                    "additionalProperties": False,
                    "properties": {"group": {}, "kind": {"enum": ["Gateway", "HTTPRoute"]}, "name": {}},
                },
            },
            "loadBalancer": {
                "required": ["type"],
                "additionalProperties": False,
                "properties": {
                    "type": {"enum": ["ConsistentHash", "LeastRequest", "Random", "RoundRobin"]},
                    "slowStart": {
                        "required": ["window"],
                        "additionalProperties": False,
                        "properties": {"window": {"type": "string", "pattern": "^[0-9]+s$"}},
                    },
                },
            },
        },
    }
}


def is_own(document: Document) -> bool:
    """Whether the kind is Kubernetes' own: its group has no dot, or ends in .k8s.io without being an extension."""
    group = document["apiVersion"].rpartition("/")[0]
    return group != "gateway.networking.k8s.io" and ("." not in group or group.endswith(".k8s.io"))


def findings(documents: list[Document]) -> list[str]:
    """What the schemas refuse; a kind that nobody knows is refused too."""
    own = [json.dumps(each, sort_keys=True) for each in documents if is_own(each)]
    envoy = [each for each in documents if each["apiVersion"].startswith("gateway.envoyproxy.io/")]
    custom = [each for each in documents if not is_own(each) and each not in envoy]
    found = [problem for text in own for version in VERSIONS if (problem := _own(text, version))]
    found += [problem for each in envoy if (problem := _envoy(each))]
    return found + (list(_custom(json.dumps(custom, sort_keys=True))) if custom else [])


@cache
def _own(text: str, version: str) -> str | None:
    document = json.loads(text)
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except ValidationError as error:
        return f"{name(document)}: {version}: {'.'.join(map(str, error.path))}: {error.message}"
    except SchemaNotFoundError:
        return f"{name(document)}: {version} knows no {document['apiVersion']} {document['kind']}"
    return None


def _envoy(document: Document) -> str | None:
    if document["kind"] not in ENVOY:
        return f"{name(document)}: no schema"
    try:
        jsonschema.validate(document["spec"], ENVOY[document["kind"]])
    except jsonschema.ValidationError as error:
        return f"{name(document)}: {error.message}"
    return None


@cache
def _custom(text: str) -> tuple[str, ...]:
    node = shutil.which("node")
    assert node, "node is needed for the operators' models"
    command = [node, str(MODELS / "check.mjs")]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))
