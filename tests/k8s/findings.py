"""All checks of one rendered variant."""

from tests.k8s import network, pods, scaling, schemas, server
from tests.k8s.manifests import Document


def facts(documents: list[Document], *, writable_root: bool = False) -> list[str]:
    """What no schema can see."""
    return [
        *pods.findings(documents, writable_root=writable_root),
        *network.findings(documents),
        *scaling.findings(documents),
        *server.findings(documents),
    ]


def everything(documents: list[Document]) -> list[str]:
    """Schemas, and what they cannot see."""
    return [*schemas.findings(documents), *facts(documents)]
