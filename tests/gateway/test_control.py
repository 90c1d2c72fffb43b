"""Loading and unloading over HTTP: who may, what from, and what callers see."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from gateway import config
from gateway.config import Settings
from gateway.mistakes import SettingsError
from inference import EngineConfig, ModelSource
from inference.config import ControlConfig
from tests.changing import ChangingEngine, folder
from tests.gateway.fakes import MODEL, Gateway, ready
from tests.gateway.keys import bearer, key_for, locked

pytestmark = pytest.mark.anyio

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w1"]}]}


def explicit(root: Path | None = None) -> Settings:
    return Settings(
        engine=EngineConfig(models=(ModelSource(MODEL, "hub/tiny"),), control=ControlConfig("explicit", root))
    )


def changing(settings: Settings) -> ChangingEngine:
    return ChangingEngine(config=settings.engine)


async def load(subject: Gateway, name: str = MODEL, source: str | None = None, **headers: str) -> httpx2.Response:
    body = {} if source is None else {"parameters": {"source": source}}
    return await subject.http.post(f"/v2/repository/models/{name}/load", json=body, headers=headers)


async def unload(subject: Gateway, name: str = MODEL, **headers: str) -> httpx2.Response:
    body = {"parameters": {"unload_dependents": False}}  # as Triton's clients say it
    return await subject.http.post(f"/v2/repository/models/{name}/unload", json=body, headers=headers)


def refused(answer: httpx2.Response, subject: Gateway, status: int) -> str:
    """The message of a refusal in the dialect's shape, before which nothing was opened."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    assert subject.engine.opened == []  # type: ignore[attr-defined]
    return answer.json()["error"]


async def test_models_cannot_be_changed_unless_that_is_switched_on() -> None:
    settings = Settings()
    async with ready(changing(settings), settings) as subject:
        for answer in (await load(subject), await unload(subject)):
            assert "--model-control explicit" in refused(answer, subject, 403)


async def test_a_page_in_a_browser_cannot_change_models() -> None:
    """Any page may post to an address on the machine of whoever looks at it."""
    settings = explicit()
    async with ready(changing(settings), settings) as subject:
        answer = await load(subject, origin="http://example.org")

        assert "may not load" in refused(answer, subject, 403)


async def test_a_key_changes_models_only_with_the_right_for_it_and_only_its_own(tmp_path: Path) -> None:
    path, log, settings = tmp_path / "keys.toml", tmp_path / "audit", explicit()
    plain, admin = key_for(path), key_for(path, "ops", admin=True)
    bounded = key_for(path, "team", admin=True, models=["mine"])
    async with locked(path, changing(settings), settings, audit_log=log) as subject:
        for key, why in ((plain, "may not load"), (bounded, f"may not use the model '{MODEL}'")):
            for answer in (await load(subject, **bearer(key)), await unload(subject, **bearer(key))):
                assert why in refused(answer, subject, 403)
        allowed = [
            await load(subject, **bearer(admin), origin="https://console.example.com"),
            await load(subject, "mine", "hub/tiny", **bearer(bounded)),
            await unload(subject, "mine", **bearer(bounded)),
            await unload(subject, "none", **bearer(admin)),
        ]

    assert [answer.status_code for answer in allowed] == [200, 200, 200, 404]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    done = [(line["caller"], line["action"], line["outcome"]) for line in lines[4:]]
    assert done == [
        ("ops", f"load {MODEL}", "ok"),
        ("team", "load mine", "ok"),
        ("team", "unload mine", "ok"),
        ("ops", "unload none", "model_not_found"),
    ]
    assert {line["outcome"] for line in lines[:4]} == {"forbidden"}


async def test_an_admin_changes_nothing_unless_that_is_switched_on(tmp_path: Path) -> None:
    path, settings = tmp_path / "keys.toml", Settings()
    admin = key_for(path, admin=True)
    async with locked(path, changing(settings), settings) as subject:
        assert "--model-control explicit" in refused(await load(subject, **bearer(admin)), subject, 403)


async def test_the_index_shows_a_caller_its_own_models(tmp_path: Path) -> None:
    path, settings = tmp_path / "keys.toml", explicit(tmp_path / "root")
    folder(folder(tmp_path, "root"), "mine")
    everybody, bounded = key_for(path), key_for(path, "team", models=["mine"])
    async with locked(path, changing(settings), settings) as subject:
        told = [await subject.http.post("/v2/repository/index", headers=bearer(key)) for key in (everybody, bounded)]

    names = [[model["name"] for model in answer.json()] for answer in told]
    assert names == [[MODEL, "mine"], ["mine"]]


async def test_what_was_replaced_while_the_body_came_answers_as_the_new_version() -> None:
    settings = explicit()
    async with ready(changing(settings), settings) as subject:

        async def body() -> AsyncIterator[bytes]:
            yield b"{"
            await load(subject, source=f"hub/tiny@{COMMIT}")
            yield json.dumps(TEXT).encode()[1:]

        answer = await subject.http.post(f"/v2/models/{MODEL}/infer", content=body())

    assert (answer.status_code, answer.json()["model_version"]) == (200, "2")


async def test_a_model_is_replaced_unloaded_and_loaded_again() -> None:
    settings = explicit()
    async with ready(changing(settings), settings) as subject:
        told = [await load(subject), await unload(subject)]
        index = (await subject.http.post("/v2/repository/index")).json()
        only_ready = (await subject.http.post("/v2/repository/index", json={"ready": True})).json()
        gone = await subject.http.post(f"/v2/models/{MODEL}/infer", json=TEXT)
        told.append(await subject.http.post(f"/v2/repository/models/{MODEL}/load"))  # no body at all
        metadata = (await subject.http.get(f"/v2/models/{MODEL}")).json()

    assert [answer.json() for answer in told] == [
        {"name": MODEL, "load": True, "version": "2"},
        {"name": MODEL, "load": False, "version": "2"},
        {"name": MODEL, "load": True, "version": "3"},
    ]
    assert index == [{"name": MODEL, "version": "2", "state": "UNAVAILABLE", "reason": "unloaded"}]
    assert only_ready == []
    assert gone.status_code == 404
    assert metadata["versions"] == ["3"]


async def test_a_version_is_found_by_its_number_and_its_revision() -> None:
    settings = explicit()
    async with ready(changing(settings), settings) as subject:
        assert (await load(subject, source=f"hub/tiny@{COMMIT}")).status_code == 200

        answers = {
            version: await subject.http.post(f"/v2/models/{MODEL}/versions/{version}/infer", json=TEXT)
            for version in ("2", COMMIT, "1", COMMIT[:12])
        }

    assert [answer.status_code for answer in answers.values()] == [200, 200, 404, 404]
    assert answers["2"].json()["model_version"] == "2"
    assert f"it has: 2, {COMMIT}" in answers["1"].json()["error"]


async def test_why_a_load_failed_is_told_and_the_old_version_goes_on() -> None:
    settings = explicit()
    engine = changing(settings)
    engine.broken = {"hub/tiny"}
    async with ready(engine, settings) as subject:
        failed = await load(subject)
        [index] = (await subject.http.post("/v2/repository/index")).json()
        answer = await subject.http.post(f"/v2/models/{MODEL}/infer", json=TEXT)

    assert (failed.status_code, failed.json()) == (400, {"error": "hub/tiny is broken"})
    assert (index["state"], index["reason"]) == ("READY", "the last load failed: hub/tiny is broken")
    assert answer.json()["model_version"] == "1"


async def test_a_folder_below_the_root_and_the_hubs_that_are_named_may_be_loaded(tmp_path: Path) -> None:
    settings = explicit(tmp_path)
    place = folder(tmp_path, "mine")
    async with ready(changing(settings), settings) as subject:
        answers = [
            await load(subject, "mine", str(place)),
            await load(subject, "again", f"{tmp_path}/../{tmp_path.name}/mine"),
            await load(subject, "mine"),
            await load(subject, "other", f"hub/tiny@{COMMIT}"),
        ]
        names = (await subject.http.get("/v2/models")).json()["models"]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert names == [MODEL, "mine", "again", "other"]


@pytest.mark.parametrize(
    "source",
    ["/", "/etc", "{root}", "{root}/..", "{root}/../outside", "{root}/link", "{root}/none", "hub/another", "."],
)
async def test_nothing_else_may_be_loaded(source: str, tmp_path: Path) -> None:
    root, outside = folder(tmp_path, "root"), folder(tmp_path, "outside")
    (root / "link").symlink_to(outside)
    settings = explicit(root)
    async with ready(changing(settings), settings) as subject:
        answer = await load(subject, source=source.format(root=root))

        assert "neither a source of --model nor a folder below" in refused(answer, subject, 403)


@pytest.mark.parametrize("source", ["", "a=b", "hub/tiny@main", "/x\0y", "a b", "x" * 5000 + "/" + "y/z", "other=/etc"])
async def test_what_is_no_source_is_named(source: str) -> None:
    settings = explicit()
    async with ready(changing(settings), settings) as subject:
        assert "parameters.source" in refused(await load(subject, source=source), subject, 400)


@pytest.mark.parametrize("name", ["a@2", "a b", "%00", "-a", "..", "a%2Fb"])
async def test_a_name_is_one_that_a_model_could_be_started_with(name: str) -> None:
    settings = explicit()
    async with ready(changing(settings), settings) as subject:
        answer = await load(subject, name)

        assert answer.status_code in (400, 404)
        assert subject.engine.opened == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("parameters", [{"config": "{}"}, {"file:1/model.onnx": "eA=="}, {"source": 1}, {"a": "b"}])
async def test_parameters_that_would_be_ignored_are_refused(parameters: dict[str, object]) -> None:
    settings = explicit()
    async with ready(changing(settings), settings) as subject:
        answer = await subject.http.post(f"/v2/repository/models/{MODEL}/load", json={"parameters": parameters})

        assert "parameters" in refused(answer, subject, 400)


@pytest.mark.parametrize("path", ["index", f"models/{MODEL}/load", f"models/{MODEL}/unload"])
async def test_a_body_that_says_too_much_is_not_decoded(path: str) -> None:
    settings = explicit()
    body = {"parameters": {str(number): "" for number in range(10_000)}}
    async with ready(changing(settings), settings) as subject:
        answer = await subject.http.post(f"/v2/repository/{path}", json=body)

        assert "larger than 65536 bytes" in refused(answer, subject, 413)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "w0"}),
        ("/infinity/embeddings", {"input": "w0"}),
        ("/embed", {"inputs": "w0"}),
        ("/v2/embed", {"texts": ["w0"]}),
        ("/pooling", {"input": "w0"}),
        (f"/models/{MODEL}", {"inputs": "w0"}),
        (f"/v2/models/{MODEL}/infer", TEXT),
    ],
    ids=str,
)
async def test_a_call_is_answered_though_its_model_goes_meanwhile(path: str, body: dict[str, object]) -> None:
    settings = explicit()
    async with ready(changing(settings), settings) as subject:
        subject.engine.device.gate.clear()
        call = asyncio.ensure_future(subject.http.post(path, json=body))
        await subject.engine.until(lambda: len(subject.engine.submitted) == 1)
        going = asyncio.ensure_future(unload(subject))
        while MODEL in subject.client.models:
            await asyncio.sleep(0)
        subject.engine.device.gate.set()

        assert (await call).status_code == 200
        assert (await going).status_code == 200


async def test_a_drain_refuses_loads_and_goes_on_serving() -> None:
    settings = explicit()
    async with ready(changing(settings), settings) as subject:
        subject.lifecycle.drain()
        loading = await load(subject)
        answer = await subject.http.post(f"/v2/models/{MODEL}/infer", json=TEXT)

    assert (loading.status_code, answer.status_code) == (503, 200)
    assert loading.headers["retry-after"] == "1"


async def test_the_metrics_tell_how_long_a_load_took() -> None:
    settings = explicit()
    async with ready(changing(settings), settings) as subject:
        await load(subject, "other", "hub/tiny")

        assert subject.metric("headrace_model_load_seconds", model="other") == 1.5
        assert 'model="other' not in subject.exposition().replace('model="other"', "")


def test_keys_let_models_be_changed_from_other_machines() -> None:
    settings = config.load(["--model-control", "explicit", "--host", "0.0.0.0", "--keys", "keys.toml"], {})

    assert settings.engine.control.mode == "explicit"


def test_models_may_not_be_changed_from_other_machines_nor_be_meant_in_vain() -> None:
    with pytest.raises(SettingsError, match="could change the models"):
        config.load(["--model-control", "explicit", "--host", "0.0.0.0", "--allow-anonymous"], {})
    with pytest.raises(SettingsError, match="would not learn"):
        config.load(["--model-control", "explicit", "--http-workers", "1"], {})
    with pytest.raises(SettingsError, match="nothing can be loaded from it"):
        config.load(["--model-root", "/models"], {})
