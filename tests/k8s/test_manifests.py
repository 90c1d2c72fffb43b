"""Every overlay, with every component that fits it, is what Kubernetes, the operators and the server expect."""

import json
from collections.abc import Callable

import pytest

from tests.k8s.findings import facts
from tests.k8s.manifests import AUTOSCALERS, OVERLAYS, ROOT, VARIANTS, Document, Variant, fitting
from tests.k8s.schemas import findings, is_own

Rendered = Callable[[Variant], list[Document]]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_variant_holds_no_mistake(rendered: Rendered, variant: Variant) -> None:
    documents = rendered(variant)

    own = [document for document in documents if is_own(document)]
    assert findings(own) == []
    assert facts(documents, writable_root="writable-rootfs" in variant.components) == []


@pytest.mark.usefixtures("operators")
def test_the_operators_know_every_field_of_their_resources(rendered: Rendered) -> None:
    """All variants at once: the models take seconds to start."""
    documents = [document for variant in VARIANTS for document in rendered(variant) if not is_own(document)]
    different = {json.dumps(document, sort_keys=True): document for document in documents}

    assert {document["kind"] for document in documents} == {
        "BackendTrafficPolicy",
        "HTTPRoute",
        "PodMonitor",
        "PrometheusRule",
        "ScaledObject",
        "ServiceMonitor",
    }
    assert findings(list(different.values())) == []


def test_every_folder_is_in_the_table() -> None:
    components = {folder.name for folder in (ROOT / "k8s/components").iterdir()}
    overlays = {folder.name for folder in (ROOT / "k8s/overlays").iterdir()}

    assert overlays == set(OVERLAYS)
    assert components == {*AUTOSCALERS, *fitting("gpu-pool")}
