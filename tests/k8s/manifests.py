"""What `kubectl kustomize` makes of an overlay, with components added to it or another autoscaler in it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
KUBECTL = Path(sys.executable).parent / "kubectl"

Document = dict[str, Any]

OVERLAYS = ("cpu", "gpu-single", "gpu-pool", "gke", "eks", "prod")
POOLS = ("gpu-pool", "gke", "eks", "prod")
AUTOSCALERS = ("keda", "keda-prometheus", "hpa")
ANYWHERE = (
    "podmonitor",
    "servicemonitor",
    "prometheus-rules",
    "grafana-dashboards",
    "gateway-api",
    "ingress",
    "surge",
    "tracing",
    "writable-rootfs",
    "loadtest",
)
ON_GPUS = ("mig", "time-slicing", "warm-pool", "runtimeclass")
NOT_ON_GKE = ("mig", "time-slicing")  # there a part of a GPU is a label of the node, not a resource of its own
IN_SINGLES = ("one-node",)  # cpu and gpu-single have it; a pool is many nodes
IN_PROD = ("podmonitor", "servicemonitor", "prometheus-rules", "grafana-dashboards", "gateway-api")  # or instead of it


@dataclass(frozen=True, slots=True)
class Variant:
    """An overlay, the components added to it, and the autoscaler that its pool has."""

    overlay: str
    components: tuple[str, ...] = ()
    autoscaler: str = "keda"

    def __str__(self) -> str:
        """`gpu-pool+surge`."""
        swapped = () if self.autoscaler == "keda" else (self.autoscaler,)
        return "+".join((self.overlay, *swapped, *self.components))


def fitting(overlay: str) -> list[str]:
    """The components that can be added to this overlay; autoscalers are swapped, not added."""
    components = [*ANYWHERE, *(ON_GPUS if overlay != "cpu" else ())]
    refused = {"prod": IN_PROD, "gke": NOT_ON_GKE}.get(overlay, ())
    return [name for name in components if name not in refused]


QUICK = (
    *(Variant(overlay) for overlay in OVERLAYS),
    *(Variant(overlay, (component,)) for overlay in ("cpu", "gpu-pool") for component in fitting(overlay)),
    *(Variant(pool, (), autoscaler) for pool in POOLS for autoscaler in AUTOSCALERS[1:]),
    Variant(
        "gpu-pool", ("podmonitor", "prometheus-rules", "grafana-dashboards", "ingress", "surge", "warm-pool"), "hpa"
    ),
    Variant("prod", ("surge", "warm-pool", "runtimeclass", "writable-rootfs"), "keda-prometheus"),
)
THE_REST = tuple(
    Variant(overlay, (component,)) for overlay in ("gpu-single", "gke", "eks", "prod") for component in fitting(overlay)
)


def copy(into: Path) -> Path:
    """A copy of k8s/ that may be spoilt."""
    return Path(shutil.copytree(ROOT / "k8s", into / "k8s"))


def build(tree: Path, variant: Variant) -> list[Document]:
    """Render a variant from a copy of k8s/, as `kubectl apply -k` would; raises CalledProcessError."""
    pool = tree / "overlays/gpu-pool/kustomization.yaml"
    pool.write_text(pool.read_text().replace("components/keda\n", f"components/{variant.autoscaler}\n"))
    folder = tree / "variants" / str(variant)
    folder.mkdir(parents=True)
    kustomization = {
        "namespace": "headrace",
        "resources": [os.path.relpath(tree / "overlays" / variant.overlay, folder)],
        "components": [os.path.relpath(tree / "components" / name, folder) for name in variant.components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    command = [str(KUBECTL), "kustomize", str(folder)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [document for document in yaml.safe_load_all(rendered) if document]


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    """The documents of these kinds."""
    return [document for document in documents if document["kind"] in kinds]


def name(document: Document) -> str:
    """`Deployment headrace`."""
    return f"{document['kind']} {document['metadata']['name']}"
