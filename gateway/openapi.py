"""The OpenAPI document of the hot routes, written from the very types that parse them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from gateway import __version__
from gateway.dialect import Spoken

_REF: Final = "#/components/schemas/{name}"
_PLACE: Final = re.compile(r"\{(\w+)\}")
_PARTS: Final = ("body", "answer", "error")
_REFUSALS: Final = (401, 403, 429)  # of every path, where callers need keys
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}

Operation = Mapping[str, Any]


def document(spoken: Sequence[Spoken], *, keyed: bool = False) -> dict[str, Any]:
    """Describe every route; where dialects share one, the body says which of them is spoken. `keyed`: with keys."""
    more = _REFUSALS if keyed else ()
    operations: dict[str, dict[str, list[Operation]]] = {}
    for each in spoken:
        served = {route.path for route in each.routes}
        usual = {"statuses": each.dialect.STATUSES, "error": each.dialect.ErrorAnswer, "more": more}
        for path, methods in each.schemas.items():
            for method, operation in methods.items() if path in served else ():
                operations.setdefault(path, {}).setdefault(method, []).append({**usual, **operation})
    everything = [each for methods in operations.values() for several in methods.values() for each in several]
    types = [kind for operation in everything for part in _PARTS for kind in _kinds(operation, part)]
    drawn, components = msgspec.json.schema_components(types, ref_template=_REF)
    schemas = dict(zip(map(repr, types), drawn, strict=True))
    paths = {
        path: {method: _operation(path, several, schemas) for method, several in methods.items()}
        for path, methods in operations.items()
    }
    info = {"title": "Headrace", "version": __version__}
    described = {"openapi": "3.1.0", "info": info, "paths": paths}
    if not keyed:
        return {**described, "components": {"schemas": components}}
    security: list[dict[str, list[str]]] = [{name: []} for name in _SCHEMES]
    return {**described, "security": security, "components": {"schemas": components, "securitySchemes": _SCHEMES}}


def _operation(path: str, several: Sequence[Operation], schemas: Mapping[str, Any]) -> dict[str, Any]:
    statuses = sorted({status for each in several for status in (*each["statuses"], *each["more"])})
    errors = {str(status): _content(HTTPStatus(status).phrase, several, "error", schemas) for status in statuses}
    documented: dict[str, Any] = {
        "summary": " / ".join(operation["summary"] for operation in several),
        "responses": {"200": _content("Answer", several, "answer", schemas), **errors},
    }
    if any("body" in operation for operation in several):
        documented["requestBody"] = {"required": True, **_content("Body", several, "body", schemas)}
    names = _PLACE.findall(path)
    if names:
        documented["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return documented


def _content(description: str, several: Sequence[Operation], part: str, schemas: Mapping[str, Any]) -> dict[str, Any]:
    found = _distinct(schemas[repr(kind)] for operation in several for kind in _kinds(operation, part))
    if not found:
        return {"description": description}
    schema = found[0] if len(found) == 1 else {"anyOf": found}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _kinds(operation: Operation, part: str) -> Sequence[Any]:
    """Return the types that a part may be of: none, one, or those of a tuple."""
    told = operation.get(part, ())
    return told if isinstance(told, tuple) else (told,)


def _distinct(schemas: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for schema in schemas:
        if schema not in found:
            found.append(schema)
    return found
