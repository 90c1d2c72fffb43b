"""The page at /console in a real browser, beside a real server with real models."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.browser import Page, browsing, found
from tests.conftest import skip
from tests.e2e.conftest import Headrace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PICTURES = os.environ.get("HEADRACE_PICTURES")  # a folder to keep them in
TEXT = "document.getElementById('text')"
SAID = "document.getElementById('said').textContent"


@pytest.fixture
def page() -> Iterator[Page]:
    command = found()
    if command is None:
        skip("there is no Chromium: `apt-get install chromium-headless-shell`")
    with browsing(str(command)) as opened:
        yield opened


@pytest.fixture
def server(start: Callable[..., Headrace], minilm_path: Path, reranker_path: Path) -> Headrace:
    return start("--model", f"minilm={minilm_path}", "--model", f"reranker={reranker_path}")


def test_the_page_shows_what_the_server_does_and_tries_its_models_by_keyboard(
    page: Page, server: Headrace, tmp_path: Path
) -> None:
    page.open(f"{server.url}/console")
    page.until("document.getElementById('state').textContent === 'ready'")
    for number in range(60):
        httpx2.post(f"{server.url}/v1/embeddings", json={"model": "minilm", "input": [f"text {number}", "water " * 20]})
    httpx2.post(f"{server.url}/v1/embeddings", json={"input": "which model?"})
    page.until("document.querySelectorAll('#sizes rect').length > 0 && document.querySelector('#latency polyline')")
    names = page.run("[...document.querySelectorAll('#models tbody tr')].map((row) => row.cells[0].textContent)")
    tiles = dict(page.run("[...document.querySelectorAll('#tiles div')].map((tile) => tile.innerText.split('\\n'))"))

    by_keyboard(page)
    hostile(page)
    refused(page)
    paused(page)
    for scheme, width in (("light", 1100), ("dark", 1100), ("light", 380)):
        page.look(Path(PICTURES or tmp_path) / f"console-{scheme}-{width}.png", width=width, scheme=scheme)

    assert names == ["minilm", "reranker"]
    assert float(tiles["calls a second"]) > 0
    assert float(tiles["p50, ms"]) > 0
    assert page.run("document.documentElement.scrollWidth <= innerWidth")  # no sideways scrolling, narrow as it is
    assert [told for told in page.complaints if "400" not in told] == []


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
    page.write("Which way does the water go?")
    page.press("Enter", control=True)
    page.until(f"{SAID}.includes('device')")
    assert "384 numbers of length 1.0000" in page.run("document.getElementById('answer').textContent")


def hostile(page: Page) -> None:
    """A text that would be markup is shown as a text."""
    page.run("document.getElementById('model').value = 'reranker'")
    page.run("document.getElementById('model').dispatchEvent(new Event('change'))")
    assert page.run("document.getElementById('ask').value") == "rerank"
    page.run("document.getElementById('more').focus(); document.getElementById('more').select()")
    page.write("<img src=x onerror=alert(1)>\nThe water goes down.")
    page.press("Enter", control=True)
    page.until("document.querySelectorAll('#answer tbody tr').length === 2")
    shown = page.run("[...document.querySelectorAll('#answer tbody tr')].map((row) => row.cells[0].textContent)")
    assert sorted(shown) == ["<img src=x onerror=alert(1)>", "The water goes down."]
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
