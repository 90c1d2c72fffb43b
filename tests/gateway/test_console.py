"""The page at /console, as far as it can be judged without a browser."""

import logging
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gateway import __version__
from gateway.config import HttpConfig, Settings, load
from tests.gateway.fakes import MODEL, FakeEngine, gateway, ready

PAGE = Path(__file__).parents[2] / "gateway" / "page"
FILES = (
    "/console",
    "/console/console.css",
    "/console/console.js",
    "/console/charts.js",
    "/console/key.js",
    "/console/try.js",
)
ELSEWHERE = re.compile(r"(https?:)?//[\w.-]+\.\w+")
NAMESPACE = "http://www.w3.org/2000/svg"


class Outline(HTMLParser):
    """What a page refers to, its inline parts, and its labels."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = dict(attributes)
        self.links += [value or "" for name, value in attributes if name in {"src", "href"}]
        self.inline += [name for name, _ in attributes if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in told) else []


def shown(**http: str) -> Settings:
    return Settings(http=HttpConfig(**http))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flags", "there"),
    [
        ([], True),
        (["--console=off"], False),
        (["--host=::1"], True),
        (["--host=localhost"], True),
        (["--host=0.0.0.0", "--allow-anonymous"], False),
        (["--host=0.0.0.0", "--allow-anonymous", "--console=on"], True),
    ],
)
@pytest.mark.anyio
async def test_there_is_a_page_only_on_loopback_or_when_asked_for(flags: list[str], there: bool) -> None:
    subject = gateway(settings=load(flags, {}))

    async with subject.http:
        statuses = {(await subject.http.get(path)).status_code for path in (*FILES, "/console/data")}

    assert statuses == {200 if there else 404}


@pytest.mark.anyio
@pytest.mark.parametrize("path", [*FILES, "/console/icon.svg", "/console/data"])
async def test_nothing_of_another_origin_may_run_in_it_nor_frame_it(path: str) -> None:
    subject = gateway()

    async with subject.http:
        headers = (await subject.http.get(path)).headers

    assert headers["content-security-policy"].startswith("default-src 'self'; frame-ancestors 'none';")
    assert headers["x-content-type-options"] == "nosniff"
    kind = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "data": "application/json"}
    assert headers["content-type"].partition(";")[0] == kind.get(
        path.rpartition(".")[2].rpartition("/")[2], "text/html"
    )


def test_the_page_refers_to_nothing_but_its_own_files_and_has_no_inline_code() -> None:
    page = Outline((PAGE / "console.html").read_text())
    files = {path.name: path.read_text().replace(NAMESPACE, "") for path in PAGE.iterdir()}

    assert page.inline == []
    assert {link for link in page.links if not link.startswith("#")} == {
        "console/icon.svg",
        "console/console.css",
        "console/console.js",
    }
    assert [name for name, text in files.items() if ELSEWHERE.search(text)] == []
    assert not any(".innerHTML" in text or "eval(" in text for text in files.values())


@pytest.mark.anyio
async def test_the_numbers_are_those_of_the_metrics() -> None:
    async with ready(FakeEngine({"e": "embed", "r": "rerank"})) as subject:
        await subject.embed({"input": ["w0", "w1 w1"], "model": "e"})
        told = (await subject.http.get("/console/data")).json()

    assert (told["version"], told["state"], told["latency_target_s"]) == (__version__, "ready", 0.1)
    assert [(model["name"], model["task"]) for model in told["models"]] == [("e", "embed"), ("r", "rerank")]
    assert told["models"][1]["abilities"] == ["rerank", "classify", "zero-shot"]
    labels = {"route": "/v1/embeddings", "model": "e", "outcome": "ok"}
    assert [labels, 1.0] in told["samples"]["headrace_requests_total"]
    assert [{}, 1.0] in told["samples"]["headrace_in_flight"]
    assert [device["name"] for device in told["devices"]] == ["cpu"]
    assert not [name for name in told["samples"] if name.endswith("_created")]


@pytest.mark.anyio
async def test_before_the_models_are_there_the_page_says_so() -> None:
    subject = gateway()

    async with subject.http:
        told = (await subject.http.get("/console/data")).json()

    assert (told["state"], told["models"], told["devices"]) == ("starting", [], [])


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_lost_device_is_told() -> None:
    async with ready() as subject:
        subject.engine.device.fail = ZeroDivisionError()
        await subject.embed({"input": "w0"})
        await subject.engine.lost()
        told = (await subject.http.get("/console/data")).json()

    assert told["state"] == "device lost"
    assert told["models"][0]["name"] == MODEL


@pytest.mark.anyio
async def test_asking_for_the_numbers_every_second_leaves_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with ready() as subject:
        await subject.http.get("/console")
        await subject.http.get("/console/data")

    lines = [record.getMessage() for record in caplog.records if record.name == "headrace.access"]
    assert [line.partition(" 200")[0] for line in lines] == ["GET /console"]


@pytest.mark.anyio
async def test_no_number_has_a_label_that_a_caller_made_up() -> None:
    marker = "opensesame"
    async with ready(settings=replace(shown(console="on"))) as subject:
        await subject.embed({"input": marker, "model": marker})
        await subject.http.get(f"/{marker}")
        told = (await subject.http.get("/console/data")).text

    assert marker not in told
