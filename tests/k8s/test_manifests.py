"""Every overlay, with every component that fits it, is what Kubernetes, the operators and the server expect."""

import json
from collections.abc import Callable

import pytest

from tests.k8s.findings import facts
from tests.k8s.manifests import AUTOSCALERS, IN_SINGLES, OVERLAYS, QUICK, ROOT, THE_REST, Document, Variant, fitting
from tests.k8s.schemas import findings, is_own

Rendered = Callable[[Variant], list[Document]]


@pytest.mark.parametrize("variant", QUICK, ids=str)
def test_a_variant_holds_no_mistake(rendered: Rendered, variant: Variant) -> None:
    assert mistakes(rendered(variant), variant) == []


@pytest.mark.slow
@pytest.mark.parametrize("variant", THE_REST, ids=str)
def test_nor_does_any_other(rendered: Rendered, variant: Variant) -> None:
    assert mistakes(rendered(variant), variant) == []


def mistakes(documents: list[Document], variant: Variant) -> list[str]:
    """All that is found, but for what only the operators' models can tell."""
    own = [document for document in documents if is_own(document)]
    return [*findings(own), *facts(documents, writable_root="writable-rootfs" in variant.components)]


@pytest.mark.usefixtures("operators")
def test_the_operators_know_every_field_of_their_resources(rendered: Rendered) -> None:
    """All at once: the models take seconds to start."""
    documents = [document for variant in QUICK for document in rendered(variant) if not is_own(document)]
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
    assert components == {*AUTOSCALERS, *IN_SINGLES, *fitting("gpu-pool")}
