"""All checks of one rendered variant that no schema can make."""

from tests.k8s import network, pods, scaling, server, volumes
from tests.k8s.manifests import Document


def facts(documents: list[Document], *, writable_root: bool = False) -> list[str]:
    """What they find."""
    return [
        *pods.findings(documents, writable_root=writable_root),
        *network.findings(documents),
        *scaling.findings(documents),
        *volumes.findings(documents),
        *server.findings(documents),
    ]
