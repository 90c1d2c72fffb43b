import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.routing import Route

from gateway import kserve
from gateway.config import AccessConfig, Settings
from gateway.openai import EmbeddingsBody
from tests.gateway.fakes import ready
from tests.gateway.keys import key_for, keyed

EXTERNAL = re.compile(r"""(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}""")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "path",
    [
        *("/v1", "/v1/", "/v1/embeddings/", "/v1/embedding", "/V1/embeddings", "/metrics", "/favicon.ico"),
        *("/%00", "/v1/embeddings%00", "/..%2f..%2fetc/passwd", "/%F0%9F%92%A9", "/%FF"),
        *("/docs/assets", "/docs/assets/%00", "/docs/assets/../../app.py", "/docs/assets/..%2f..%2f__init__.py"),
        "/docs/assets/" + "x" * 5000,
    ],
    ids=lambda path: path[:40],
)
async def test_an_unknown_path_is_answered_in_the_nested_shape(path: str) -> None:
    async with ready() as subject:
        answer = await subject.http.get(path)

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
async def test_an_unknown_method_is_answered_in_the_nested_shape(method: str) -> None:
    async with ready() as subject:
        answer = await subject.http.request(method, "/v1/embeddings")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert method == "HEAD" or answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "status", "keys"),
    [
        ("GET", "/embed", 405, {"error", "error_type"}),
        ("POST", "/embed_none", 404, {"error", "error_type"}),
        ("GET", "/models/tiny", 405, {"error"}),
        ("POST", "/models/a/b", 404, {"error"}),
        ("GET", "/v1/rerank", 405, {"message", "detail"}),
        ("GET", "/rerank", 405, {"message", "detail"}),  # of the two that have it, the first
        ("PUT", "/v2/embed", 405, {"message"}),
        ("GET", "/v2/embed/jobs", 404, {"message"}),
        ("GET", "/score", 405, {"error"}),
        ("GET", "/infinity/none", 404, {"error"}),
        ("GET", "/v1/none", 404, {"error"}),
        ("GET", "/", 405, {"error"}),
    ],
)
async def test_an_unknown_call_is_answered_in_the_dialect_it_looks_like(
    method: str, path: str, status: int, keys: set[str]
) -> None:
    async with ready() as subject:
        answer = await subject.http.request(method, path)

    assert answer.status_code == status
    assert answer.json().keys() == keys
    nested = isinstance(answer.json().get("error"), dict)
    assert nested == (path in {"/score", "/infinity/none", "/v1/none"})


@pytest.mark.anyio
async def test_a_host_header_is_never_repeated() -> None:
    async with ready() as subject:
        answers = [
            await subject.http.post(path, content=b"{}", headers={"host": "evil.example"})
            for path in ("/v1/embeddings/", "/v1/models/", "/docs/", "/docs/assets", "//v1/models")
        ]

    assert all("evil.example" not in f"{answer.headers}{answer.text}" for answer in answers)
    assert {answer.status_code for answer in answers} == {404}


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_docs_need_no_internet(path: str) -> None:
    async with ready() as subject:
        page = await subject.http.get(path)
        local = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
        assets = [await subject.http.get(place) for place in local]

    assert page.status_code == 200
    assert EXTERNAL.findall(page.text) == []
    assert any(place.endswith(".js") for place in local)
    assert [asset.status_code for asset in assets] == [200] * len(local)
    assert all(asset.content for asset in assets)


@pytest.mark.anyio
async def test_the_openapi_document_describes_the_hot_routes_in_full() -> None:
    async with ready() as subject:
        answer = await subject.http.get("/openapi.json")

    document = answer.json()
    schemas = document["components"]["schemas"]
    operation = document["paths"]["/v1/embeddings"]["post"]
    body = schemas[operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
    assert document["openapi"].startswith("3.1")
    assert document["paths"]["/v1/models"].keys() == {"get"}
    assert body["required"] == ["input"]
    assert body["properties"].keys() == set(EmbeddingsBody.__struct_fields__)
    assert {"200", "400", "404", "413", "415", "429", "500", "503", "504"} <= operation["responses"].keys()


@pytest.mark.anyio
async def test_the_openapi_document_has_every_route_and_says_where_a_body_decides() -> None:
    async with ready() as subject:
        document = (await subject.http.get("/openapi.json")).json()
        served = {route.path for route in subject.app.routes if isinstance(route, Route)}

    own = {"/livez", "/readyz", "/docs", "/redoc", "/openapi.json"}
    own |= {path for path in served if path.startswith("/console")}
    assert served - document["paths"].keys() == own | set(kserve.UNSUPPORTED)
    assert document["paths"].keys() <= served
    operation = document["paths"]["/rerank"]["post"]
    bodies = operation["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert [body["$ref"].rpartition("/")[2] for body in bodies] == ["JinaBody", "gateway.tei_forms.RerankBody"]
    assert {"400", "422", "424"} <= operation["responses"].keys()
    assert [place["name"] for place in document["paths"]["/models/{name}"]["post"]["parameters"]] == ["name"]


@pytest.mark.anyio
async def test_every_reference_in_the_openapi_document_resolves() -> None:
    async with ready() as subject:
        document = (await subject.http.get("/openapi.json")).json()

    references = re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document))
    assert len(references) > 10
    assert set(references) <= document["components"]["schemas"].keys()


@pytest.mark.anyio
@pytest.mark.parametrize("body", [{"input": "w0", "encoding_format": "base64"}, {"input": ["w0", "w1"]}, {"input": 1}])
async def test_answers_have_the_keys_that_the_document_promises(body: object) -> None:
    async with ready() as subject:
        document = (await subject.http.get("/openapi.json")).json()
        answer = await subject.embed(body)

    responses = document["paths"]["/v1/embeddings"]["post"]["responses"]
    reference = responses[str(answer.status_code)]["content"]["application/json"]["schema"]["$ref"]
    promised = document["components"]["schemas"][reference.rpartition("/")[2]]
    assert set(promised["required"]) <= answer.json().keys() <= promised["properties"].keys()


@pytest.mark.anyio
async def test_the_metrics_are_not_on_the_public_port() -> None:
    async with ready() as subject:
        answers = [await subject.http.get(path) for path in ("/metrics", "/metrics/", "/v1/metrics")]

    assert [answer.status_code for answer in answers] == [404] * 3
    assert all("headrace_" not in answer.text for answer in answers)


@pytest.mark.parametrize("module", ["gateway.app, gateway.openai, gateway.server", "gateway.commands"])
def test_a_process_that_only_speaks_http_has_no_torch(module: str) -> None:
    program = f"import {module}, sys; print(sorted({{'torch', 'transformers'}} & sys.modules.keys()))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_an_application_around_another_engine_has_no_torch() -> None:
    program = """
import sys
from gateway import app, config, lifecycle, telemetry
from inference import Client, Limits
metrics = telemetry.Metrics(0.1)
client = Client(object(), Limits())
app.create_app(config.Settings(), client, lifecycle.Lifecycle(client, metrics), metrics)
print(sorted({'torch', 'transformers'} & sys.modules.keys()))
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key,content-type"}


@pytest.mark.anyio
async def test_pages_of_no_origin_may_call_unless_it_is_listed() -> None:
    listed, other = {"origin": "https://a.example"}, {"origin": "https://b.example"}
    settings = Settings(access=AccessConfig(cors_origins=("https://a.example",)))

    async with ready() as closed, ready(settings=settings) as open_:
        off = await closed.http.options("/v1/embeddings", headers=PREFLIGHT | listed)
        preflights = [await open_.http.options("/v1/embeddings", headers=PREFLIGHT | each) for each in (listed, other)]
        answers = [await open_.embed({"input": "w1"}, **each) for each in (listed, other)]

    assert "access-control-allow-origin" not in off.headers
    assert [each.status_code for each in preflights] == [200, 400]
    told = [each.headers.get("access-control-allow-origin") for each in (*preflights, *answers)]
    assert told == ["https://a.example", None, "https://a.example", None]
    assert "access-control-allow-credentials" not in answers[0].headers


@pytest.mark.anyio
async def test_a_preflight_shows_no_key_and_the_call_behind_it_must(tmp_path: Path) -> None:
    origin = {"origin": "https://a.example"}
    key_for(tmp_path / "keys")
    settings = keyed(tmp_path / "keys")
    settings = replace(settings, access=replace(settings.access, cors_origins=("https://a.example",)))

    async with ready(settings=settings) as subject:
        preflight = await subject.http.options("/v1/embeddings", headers=PREFLIGHT | origin)
        answer = await subject.embed({"input": "w1"}, **origin)

    assert preflight.status_code == 200
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "https://a.example"  # so that the page can read why
