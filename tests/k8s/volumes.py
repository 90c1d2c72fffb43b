"""Checks of who can mount what: the volume of models is written by a Job and read by every pod."""

from collections.abc import Iterator

from tests.k8s.manifests import Document, of_kind
from tests.k8s.network import chosen
from tests.k8s.scaling import SERVER, bounds


def findings(documents: list[Document]) -> Iterator[str]:
    """What could never be mounted."""
    many = any(bounds(each)[1] > 1 for each in of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject"))
    job = next(each for each in of_kind(documents, "Job") if each["metadata"]["name"] == "headrace-model-fetch")
    for claim in of_kind(documents, "PersistentVolumeClaim"):
        if claim["spec"]["accessModes"] == ["ReadWriteMany"]:
            continue
        if many:
            yield f"{claim['metadata']['name']}: pods on several nodes cannot mount it"
        if not _beside_the_server(job, documents):
            yield f"{claim['metadata']['name']}: the fetch Job may be on a node that cannot mount it"
    for owner, pod in chosen({}, documents):
        for volume in pod["spec"].get("volumes", []):
            claimed = volume.get("persistentVolumeClaim")
            if claimed and "fsGroup" not in pod["spec"]["securityContext"]:
                yield f"{owner}: a volume may belong to root alone"
            if claimed and owner == SERVER and not claimed.get("readOnly"):
                yield f"{owner}: may write the models that it serves"


def _beside_the_server(job: Document, documents: list[Document]) -> bool:
    spec = job["spec"]["template"]["spec"]
    terms = spec.get("affinity", {}).get("podAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])
    server = next(each for each in of_kind(documents, "Deployment") if each["metadata"]["name"] == "headrace")
    tolerated = server["spec"]["template"]["spec"].get("tolerations", [])
    return all(each in spec.get("tolerations", []) for each in tolerated) and any(
        term["topologyKey"] == "kubernetes.io/hostname"
        and [owner for owner, _ in chosen(term["labelSelector"]["matchLabels"], documents)] == [SERVER]
        for term in terms
    )
