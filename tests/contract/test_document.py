"""The OpenAPI document keeps its word, whatever is sent: no 5xx, no status or answer that it does not have."""

import asyncio
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.gateway.fakes import FakeEngine, listening

pytestmark = pytest.mark.anyio

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EVERY_TASK = {
    "e": "embed",
    "r": "rerank",
    "c": "classify",
    "t": "token-classify",
    "m": "fill-mask",
    "s": "sparse",
}


def fuzz(url: str, examples: int) -> set[str]:
    """Call every operation with what its schema allows, and with what it does not; return the operations."""
    document = _informed(httpx2.get(f"{url}/openapi.json").json())
    seen = set()
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()
        seen.add(f"{operation.method.upper()} {operation.path}")
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _fuzz(operation, mode, url, examples)
    return seen


def _informed(document: dict[str, Any]) -> dict[str, Any]:
    """Tell which models and tasks there are, as a caller would know: made-up ones are all answered alike."""
    names = list(EVERY_TASK)
    tasks = ["feature-extraction", "text-classification", "none"]
    known = {"name": names, "model": names, "version": ["1", "2"], "task": tasks}
    for methods in document["paths"].values():
        for operation in methods.values():
            for place in operation.get("parameters", ()):
                place["schema"]["enum"] = known[place["name"]]
    for schema in document["components"]["schemas"].values():
        properties = schema.get("properties", {})
        if "default" in properties.get("model", ()):  # of a body: answers have no default
            properties["model"] = {"enum": [*EVERY_TASK, None]}
            schema["required"] = [*schema["required"], "model"]
    return document


def _fuzz(operation: Any, mode: GenerationMode, url: str, examples: int) -> None:
    if mode is GenerationMode.NEGATIVE and operation.method.upper() == "GET":
        return  # there is nothing to get wrong

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        case.call_and_validate(base_url=url, checks=CHECKS)

    call()


@pytest.mark.parametrize("examples", [2, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
async def test_every_route_answers_as_the_document_says(examples: int) -> None:
    async with listening(FakeEngine(EVERY_TASK)) as address:
        seen = await asyncio.to_thread(fuzz, f"http://127.0.0.1:{address.port}", examples)

    assert {"POST /embed", "POST /rerank", "POST /v2/embed", "POST /models/{name}", "GET /info"} <= seen
