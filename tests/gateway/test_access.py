import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route

from gateway.config import HttpConfig, Settings
from gateway.console import FILES
from gateway.watched import Unreadable
from tests.gateway.fakes import FakeEngine, Gateway, gateway, listening, post, ready
from tests.gateway.keys import bearer, key_for, keyed, locked

pytestmark = pytest.mark.anyio
WORDS = {"input": "w1 w2"}  # four tokens, with both ends


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer {}"},
        {"authorization": "bearer  {}"},
        {"x-api-key": "{}"},
        {"x-api-key": "{}", "authorization": "Bearer sk-of-something-else"},
        {"x-api-key": "", "authorization": "Bearer {}"},
    ],
    ids=str,
)
async def test_a_key_is_shown_in_either_header(file: Path, headers: dict[str, str]) -> None:
    key = key_for(file)

    async with locked(file) as subject:
        answer = await subject.embed(WORDS, **{name: text.format(key) for name, text in headers.items()})

    assert answer.status_code == 200


def wrong_headers(key: str, other: str) -> list[dict[str, str]]:
    mixed = "_".join([*key.split("_")[:2], other.split("_")[2]])
    return [
        {},
        *({"authorization": text} for text in ("", "Bearer", "Bearer ", key, f"Basic {key}", f"Token {key}")),
        *({"authorization": f"Bearer {text}"} for text in ("x", key[:-1], key + "0", f"{key} {key}", mixed)),
        {"x-api-key": mixed},
        {"x-api-key": "nonsense", "authorization": f"Bearer {key}"},
        {"cookie": f"authorization=Bearer {key}"},
        {"authorization": "Bearer " + "x" * 60_000},
    ]


async def test_without_a_valid_key_every_call_gets_one_constant_answer(file: Path) -> None:
    key, other = key_for(file), key_for(file)

    async with locked(file) as subject:
        answers = [await subject.embed(WORDS, **headers) for headers in wrong_headers(key, other)]
        in_the_query = await subject.http.post(f"/v1/embeddings?key={key}&api_key={key}", json=WORDS)

    assert {answer.status_code for answer in [*answers, in_the_query]} == {401}
    assert len({answer.content for answer in [*answers, in_the_query]}) == 1
    assert {answer.headers["www-authenticate"] for answer in answers} == {'Bearer realm="headrace"'}
    assert answers[0].json()["error"]["code"] == "invalid_api_key"
    assert subject.engine.submitted == []


async def test_every_path_needs_a_key_but_those_of_the_probes(file: Path) -> None:
    key_for(file)
    unknown = ["/", "/nothing", "/v1", "/metrics", "/livez/", "//livez", "/LIVEZ", "/livez/../v1/models", "/v2/livez"]
    docs = ["/docs", "/redoc", "/openapi.json", "/docs/assets/favicon.png"]

    async with locked(file) as subject:
        known = [route.path for route in subject.app.routes if isinstance(route, Route)]
        open_paths = []
        for path in [*known, *unknown, *docs]:
            for method in ("GET", "POST", "HEAD", "OPTIONS", "BREW"):
                answer = await subject.http.request(method, path.replace("{", "").replace("}", ""))
                open_paths += [path] if answer.status_code != 401 else []

    assert len(known) > 50
    assert set(open_paths) == {"/livez", "/readyz", *FILES}


@pytest.mark.parametrize(
    "head",
    [
        *("Host: x/livez?", "Host: x/livez#", "Host: livez", "Host: x/../livez"),
        *(f"Host: x\r\n{name}: /livez" for name in ("X-Forwarded-Prefix", "X-Original-URL", "X-Rewrite-URL")),
    ],
)
@pytest.mark.parametrize(
    "target", ["/v1/models", "/livez%2f../v1/models", "http://x/livez/../v1/models", "/v1/models?/livez"]
)
async def test_no_trick_with_the_url_opens_a_path(file: Path, head: str, target: str) -> None:
    key_for(file)

    async with listening(settings=keyed(file)) as address:
        answer = await address.answer(f"GET {target} HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n".encode())

    assert answer.split(b" ")[1] in {b"401", b"400"}
    assert b"tiny" not in answer


async def test_the_refusal_comes_before_the_body_is_read(file: Path) -> None:
    key_for(file)

    async with listening(settings=keyed(file)) as address:
        caller = await address.connect()
        caller.send(post(b"", "Transfer-Encoding: chunked"))
        status, body = await caller.response()
        caller.close()

    assert status == 401
    assert json.loads(body)["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/embed", {"error", "error_type"}),
        ("/v2/embed", {"message"}),
        ("/v2/models/tiny/infer", {"error"}),
        ("/rerank", {"message", "detail"}),
        ("/v1/none", {"error"}),
    ],
)
async def test_a_refusal_has_the_shape_of_the_dialect(file: Path, path: str, keys: set[str]) -> None:
    key_for(file)

    async with locked(file) as subject:
        answer = await subject.http.post(path, json={})

    assert (answer.status_code, answer.json().keys()) == (401, keys)


async def test_a_file_that_cannot_be_read_stops_the_start(file: Path) -> None:
    with pytest.raises(Unreadable, match="cannot read the keys"):
        gateway(settings=keyed(file))


async def test_the_fair_turns_of_callers_go_by_their_names(file: Path) -> None:
    keys = [key_for(file, "search"), key_for(file, "search"), key_for(file, "other")]

    async with locked(file) as subject:
        for key in keys:
            await subject.embed(WORDS, **bearer(key))

    assert [call.caller for call in subject.engine.submitted] == ["search", "search", "other"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/embeddings", {"input": "w1", "model": "{}"}),
        ("POST", "/embed", {"inputs": "w1", "model": "{}"}),
        ("POST", "/tokenize", {"inputs": "w1", "model": "{}"}),
        ("POST", "/decode", {"ids": [5], "model": "{}"}),
        ("POST", "/v2/embed", {"texts": ["w1"], "model": "{}", "input_type": "search_document"}),
        ("POST", "/pooling", {"input": "w1", "model": "{}"}),
        ("POST", "/infinity/embeddings", {"input": "w1", "model": "{}"}),
        ("POST", "/models/{}", {"inputs": "w1"}),
        ("GET", "/v2/models/{}", None),
        ("GET", "/v2/models/{}/config", None),
        ("GET", "/v2/models/{}/stats", None),
        ("GET", "/v2/models/{}/ready", None),
        ("POST", "/v2/models/{}/infer", {"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": ["w1"]}]}),
    ],
)
async def test_a_caller_may_use_its_models_and_does_not_learn_of_others(
    file: Path, method: str, path: str, body: dict[str, Any] | None
) -> None:
    key = key_for(file, models={"mine"})

    async def asked(name: str) -> httpx2.Response:
        content = json.loads(json.dumps(body).replace("{}", name))
        return await subject.http.request(method, path.replace("{}", name), json=content, headers=bearer(key))

    async with locked(file, FakeEngine(["mine", "theirs"])) as subject:
        mine, theirs, nobodys = [await asked(name) for name in ("mine", "theirs", "nobodys")]

    assert mine.status_code == 200
    assert theirs.status_code == nobodys.status_code == 403
    assert theirs.text.replace("theirs", "nobodys") == nobodys.text
    assert [call.requests[0].model for call in subject.engine.submitted] in ([], ["mine"])


@pytest.mark.parametrize("path", ["/v1/models", "/v2/models", "/infinity/models", "/v2/models/stats", "/info"])
async def test_lists_have_a_caller_s_own_models(file: Path, path: str) -> None:
    key = key_for(file, models={"mine"})

    async with locked(file, FakeEngine(["theirs", "mine"])) as subject:
        answer = await subject.http.get(path, headers=bearer(key))

    assert answer.status_code == 200
    assert "mine" in answer.text
    assert "theirs" not in answer.text


async def test_a_model_that_is_not_named_must_be_one_of_the_caller_s(file: Path) -> None:
    key = key_for(file, models={"mine"})

    async with locked(file, FakeEngine({"theirs": "embed"})) as subject:
        answer = await subject.embed(WORDS, **bearer(key))

    assert answer.status_code == 403
    assert subject.engine.submitted == []


async def test_a_caller_may_ask_for_its_tasks(file: Path) -> None:
    key = key_for(file, tasks={"rerank"})

    async with locked(file) as subject:
        answer = await subject.embed(WORDS, **bearer(key))

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "forbidden"
    assert subject.engine.submitted == []


async def test_a_caller_may_call_in_its_dialects_also_where_two_share_a_path(file: Path) -> None:
    key = key_for(file, dialects={"openai", "tei"})
    texts, documents = {"query": "w1", "texts": ["w2"]}, {"query": "w1", "documents": ["w2"]}

    async with locked(file, FakeEngine({"tiny": "rerank"})) as subject:
        statuses = [
            (await subject.http.request(method, path, json=body, headers=bearer(key))).status_code
            for method, path, body in [
                ("GET", "/v1/models", None),
                ("POST", "/rerank", texts),
                ("POST", "/rerank", documents),
                ("POST", "/v1/rerank", documents),
                ("GET", "/v2/models/tiny", None),
                ("GET", "/infinity/models", None),
                ("GET", "/openapi.json", None),
            ]
        ]

    assert statuses == [200, 200, 403, 403, 403, 403, 200]


@pytest.mark.parametrize(("own", "asked", "gets"), [(5, "9", 5), (5, "3", 3), (-3, "0", -3), (None, "9", 1)])
async def test_a_caller_s_own_ceiling_of_priority_stands_in_for_the_server_s(
    file: Path, own: int | None, asked: str, gets: int
) -> None:
    key = key_for(file, max_priority=own)
    settings = Settings(http=HttpConfig(max_priority=1))

    async with locked(file, settings=settings) as subject:
        await subject.embed(WORDS, **bearer(key), **{"x-request-priority": asked})

    assert [call.priority for call in subject.engine.submitted] == [gets]


async def test_levels_of_v2_count_down_from_a_caller_s_own_ceiling(file: Path) -> None:
    key = key_for(file, max_priority=2)
    body = {"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": ["w1"]}], "parameters": {"priority": 1}}

    async with locked(file) as subject:
        await subject.http.post("/v2/models/tiny/infer", json=body, headers=bearer(key))
        config = await subject.http.get("/v2/models/tiny/config", headers=bearer(key))

    assert [call.priority for call in subject.engine.submitted] == [2]
    assert '"priority_levels":12' in config.text


async def test_calls_over_a_limit_are_refused_with_the_time_to_wait_and_what_is_left(file: Path) -> None:
    key = key_for(file, requests_per_s=0.5)

    async with locked(file) as subject:
        first = await subject.embed(WORDS, **bearer(key))
        second = await subject.embed(WORDS, **bearer(key))

    assert first.status_code == 200
    assert first.headers["ratelimit-policy"] == '"requests";q=1;w=2'
    assert first.headers["ratelimit"] == '"requests";r=0;t=2'
    assert second.status_code == 429
    assert second.json()["error"]["type"] == "rate_limit_error"
    assert second.headers["retry-after"] == "2"
    assert 1000 < int(second.headers["retry-after-ms"]) <= 2000
    assert second.headers["ratelimit"] == '"requests";r=0;t=2'
    assert len(subject.engine.submitted) == 1
    assert subject.metric("headrace_refusals_total", reason="caller_requests") == 1


async def test_tokens_are_charged_as_the_answer_counts_them(file: Path) -> None:
    key = key_for(file, tokens_per_day=5)

    async with locked(file) as subject:
        answers = [await subject.embed(WORDS, **bearer(key)) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit"].startswith('"day";r=5;')  # told before the answer is charged
    assert answers[2].headers["ratelimit"].startswith('"day";r=0;')
    assert int(answers[2].headers["retry-after"]) <= 86_400
    assert subject.metric("headrace_caller_tokens_total", caller="search") == 8
    assert subject.metric("headrace_caller_requests_total", caller="search", outcome="ok") == 2
    assert subject.metric("headrace_caller_requests_total", caller="search", outcome="refused") == 1


async def test_calls_at_once_are_limited_by_caller_and_a_caller_that_goes_gives_its_place_back(file: Path) -> None:
    key, other, engine = key_for(file, in_flight=1), key_for(file, "other", in_flight=1), FakeEngine()
    engine.device.gate.clear()

    async with locked(file, engine) as subject:
        waits = asyncio.create_task(subject.embed(WORDS, **bearer(key)))
        await engine.until(lambda: len(engine.submitted) == 1)
        refused = await subject.embed(WORDS, **bearer(key))
        others = asyncio.create_task(subject.embed(WORDS, **bearer(other)))
        await engine.until(lambda: len(engine.submitted) == 2)
        waits.cancel()
        await asyncio.wait([waits])
        engine.device.gate.set()
        again = await subject.embed(WORDS, **bearer(key))

    assert refused.status_code == 429
    assert refused.headers["ratelimit"] == '"in-flight";r=0'
    assert (await others).status_code == again.status_code == 200


async def test_who_has_no_limits_gets_no_fields_about_them(file: Path) -> None:
    key = key_for(file)

    async with locked(file) as subject:
        answer = await subject.embed(WORDS, **bearer(key))

    assert "ratelimit" not in answer.headers
    assert "ratelimit-policy" not in answer.headers


async def test_the_access_log_names_caller_and_key_id_and_never_the_key(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = key_for(file)
    caplog.set_level("DEBUG")

    async with locked(file) as subject:
        await subject.embed(WORDS, **bearer(key))
        await subject.embed(WORDS, **bearer(key + "0"))

    [line, refused] = [record.getMessage() for record in caplog.records if record.name == "headrace.access"]
    assert line.endswith(f" caller=search key={key.split('_')[1]}")
    assert refused.endswith(" code=invalid_api_key")
    assert key.split("_")[2] not in caplog.text


async def test_the_document_says_how_to_show_a_key(file: Path) -> None:
    key = key_for(file)

    async with locked(file) as subject, ready() as without:
        described = (await subject.http.get("/openapi.json", headers=bearer(key))).json()
        plain = (await without.http.get("/openapi.json")).json()

    assert described["security"] == [{"bearer": []}, {"header": []}]
    assert described["components"]["securitySchemes"]["bearer"] == {"type": "http", "scheme": "bearer"}
    assert {"401", "403", "429"} <= described["paths"]["/v1/models"]["get"]["responses"].keys()
    assert "security" not in plain
    assert "401" not in plain["paths"]["/v1/models"]["get"]["responses"]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A gateway whose only key nobody has."""
    file = tmp_path_factory.mktemp("closed") / "keys"
    key_for(file)
    return gateway(settings=keyed(file))


@given(name=st.sampled_from(["authorization", "x-api-key"]), text=st.text(st.characters(max_codepoint=255)))
async def test_no_text_in_a_header_opens_or_breaks_anything(closed: Gateway, name: str, text: str) -> None:
    scope = {"type": "http", "method": "GET", "path": "/v1/models", "query_string": b"", "root_path": ""}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(name.encode(), text.encode("latin-1"))]
    await closed.app({**scope, "headers": headers}, lambda: None, send)  # type: ignore[arg-type]

    assert sent[0]["status"] == 401
    assert re.search(rb"invalid_api_key", sent[1]["body"])


async def test_errors_name_only_the_models_that_their_caller_may_use(file: Path) -> None:
    two, none = key_for(file, "two", models={"a", "b", "gone"}), key_for(file, "none", models={"gone"})

    async with locked(file, FakeEngine(["a", "b", "theirs"])) as subject:
        several = await subject.embed(WORDS, **bearer(two))
        gone = await subject.embed({**WORDS, "model": "gone"}, **bearer(two))
        other = await subject.http.post("/rerank", json={"query": "w1", "texts": ["w2"]}, headers=bearer(two))
        nothing = await subject.embed(WORDS, **bearer(none))

    assert [answer.status_code for answer in (several, gone, nothing)] == [400, 404, 403]
    assert "which model is meant: a, b" in several.text
    assert "there is: a, b" in gone.text
    assert "a can" in other.text
    assert not [answer.text for answer in (several, gone, other, nothing) if "theirs" in answer.text]


async def test_a_caller_of_one_model_among_many_need_not_name_it(file: Path) -> None:
    key = key_for(file, models={"mine"})

    async with locked(file, FakeEngine(["mine", "theirs"])) as subject:
        answer = await subject.embed(WORDS, **bearer(key))

    assert answer.status_code == 200
    assert [call.requests[0].model for call in subject.engine.submitted] == ["mine"]
