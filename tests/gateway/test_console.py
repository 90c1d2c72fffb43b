"""The page at /console: what it is sent with, what its numbers are, and the page itself in a real browser."""

import asyncio
import logging
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest

from gateway import __version__
from gateway.config import HttpConfig, Settings, load
from tests.browser import Page, browsing, found
from tests.conftest import skip
from tests.gateway.fakes import MODEL, FakeEngine, gateway, listening, ready

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


PICTURES = os.environ.get("HEADRACE_PICTURES")  # a folder to keep them in
TEXT = "document.getElementById('text')"
SAID = "document.getElementById('said').textContent"
TASKS = {
    "minilm": "embed",
    "reranker": "rerank",
    "judge": "classify",
    "tagger": "token-classify",
    "terms": "sparse",
    "filler": "fill-mask",
}


@pytest.mark.slow
@pytest.mark.anyio
async def test_in_a_browser_it_shows_what_the_server_does_and_tries_its_models(tmp_path: Path) -> None:
    command = found()
    if command is None:
        skip("there is no Chromium: `apt-get install chromium-headless-shell`")

    async with listening(FakeEngine(TASKS)) as address:
        await asyncio.to_thread(visit, str(command), f"http://127.0.0.1:{address.port}", Path(PICTURES or tmp_path))


def visit(command: str, url: str, pictures: Path) -> None:
    """Open the page, look at it and use it."""
    with browsing(command) as page, httpx2.Client(base_url=url) as http:
        page.open(f"{url}/console")
        page.until("document.getElementById('state').textContent === 'ready'")
        drawn = "document.querySelectorAll('#sizes rect').length > 0 && document.querySelector('#latency polyline')"
        page.until(f"{drawn} && document.getElementById('tiles').innerText.includes('refused')", lambda: busy(http))
        names = page.run("[...document.querySelectorAll('#models tbody tr')].map((row) => row.cells[0].textContent)")
        script = "[...document.querySelectorAll('#tiles div')].map((tile) => tile.innerText.split('\\n'))"
        tiles = dict(page.run(script))

        by_keyboard(page)
        every_ask(page)
        hostile(page)
        refused(page)
        paused(page)
        page.until("document.getElementById('rates').querySelectorAll('polyline').length > 2", lambda: busy(http))
        for scheme, width in (("light", 1100), ("dark", 1100), ("light", 380)):
            page.look(pictures / f"console-{scheme}-{width}.png", width=width, scheme=scheme)
        narrow = page.run("document.documentElement.scrollWidth <= innerWidth")
        complaints = [told for told in page.complaints if " 400 " not in told]

    assert names == list(TASKS)
    assert float(tiles["calls a second"]) > 0
    assert float(tiles["p50, ms"]) > 0
    assert narrow  # no sideways scrolling
    assert complaints == []


def busy(http: httpx2.Client) -> None:
    """Some calls, one of them wrong."""
    for number in range(40):
        http.post("/v1/embeddings", json={"model": "minilm", "input": [f"w{number}"] * (1 + number % 5)})
        http.post("/v1/rerank", json={"model": "reranker", "query": "w1", "documents": [f"w{number} w2", "w3"]})
    http.post("/v1/embeddings", json={"input": 5})


def every_ask(page: Page) -> None:
    """Each thing that a model may be asked has an answer that can be read."""
    for model in TASKS:
        choose(page, "model", model)
        for ask in page.run("[...document.getElementById('ask').options].map((option) => option.value)"):
            choose(page, "ask", ask)
            page.run("document.getElementById('said').textContent = ''")
            page.run("document.getElementById('run').click()")
            page.until(f"{SAID}.includes('device')")
            assert page.run("document.querySelector('#answer svg, #answer td, #answer p') !== null"), (model, ask)


def choose(page: Page, select: str, value: str) -> None:
    page.run(f"document.getElementById('{select}').value = '{value}'")
    page.run(f"document.getElementById('{select}').dispatchEvent(new Event('change'))")


def by_keyboard(page: Page) -> None:
    """From the top of the page to an answer, by keys alone."""
    page.run("document.body.focus()")
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    page.press("Enter")
    page.press("Tab")
    assert page.run("document.activeElement.id") == "model"
    page.press("Tab")
    page.press("Tab")
    assert page.run("document.activeElement.id") == "text"
    page.run(f"{TEXT}.select()")
    page.write("w4 w5")
    page.press("Enter", control=True)
    page.until(f"{SAID}.includes('device')")
    assert "384 numbers of length 1.0000" in page.run("document.getElementById('answer').textContent")


def hostile(page: Page) -> None:
    """A text that would be markup is shown as a text."""
    choose(page, "model", "reranker")
    assert page.run("document.getElementById('ask').value") == "rerank"
    page.run("document.getElementById('more').focus(); document.getElementById('more').select()")
    page.write("<img src=x onerror=alert(1)>\nw7")
    page.press("Enter", control=True)
    page.until("document.querySelectorAll('#answer tbody tr').length === 2")
    shown = page.run("[...document.querySelectorAll('#answer tbody tr')].map((row) => row.cells[0].textContent)")
    assert sorted(shown) == ["<img src=x onerror=alert(1)>", "w7"]
    assert page.run("document.images.length") == 0


def refused(page: Page) -> None:
    """What the server says is wrong is shown, and the form goes on working."""
    page.run("document.getElementById('more').value = '  '")
    page.press("Enter", control=True)
    page.run("document.getElementById('run').click()")
    page.until(f"{SAID}.startsWith('4')")
    assert page.run("document.getElementById('said').className") == "bad"
    assert not page.run("document.getElementById('run').disabled")


def paused(page: Page) -> None:
    """A reader may hold the numbers still."""
    page.run("document.getElementById('pause').focus()")
    page.press(" ")
    assert page.run("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    page.until("document.getElementById('state').textContent === 'paused'")
    page.press(" ")
    page.until("document.getElementById('state').textContent === 'ready'")
