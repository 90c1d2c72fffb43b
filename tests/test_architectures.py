"""What the table of tiny architectures says is so in plain Transformers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.architectures import ARCHITECTURES, LONGEST, Family, Head, build, loader

pytestmark = pytest.mark.slow  # the equality of answers is tested over the same table

TEXTS = ["The wheel turns.", "Where the river is high, the water runs over the wheel; 水车 öffnet.", "mill"]
HEADED = [(name, head) for name, architecture in ARCHITECTURES.items() for head in architecture.heads[1:]]
OF_A_FAMILY = {architecture.family: name for name, architecture in ARCHITECTURES.items()}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint as plain Transformers loads it."""

    name: str
    path: Path
    model: Any
    tokenizer: Any
    differences: Mapping[str, Any]  # between the file's tensors and the model's

    def answer(self, texts: str | Sequence[str], **options: Any) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(**self.tokenizer(texts, return_tensors="pt", **options))[0]


def load(name: str, head: Head, folder: Path) -> Loaded:
    path = build(name, head, folder)
    model, differences = loader(name, head).from_pretrained(path, output_loading_info=True)
    return Loaded(name, path, model.eval(), AutoTokenizer.from_pretrained(path), differences)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(request.param, "base", tmp_path_factory.mktemp("architecture"))


def check_it_loads_whole_and_tells_texts_apart(loaded: Loaded) -> None:
    answers = [loaded.answer(text) for text in TEXTS]

    assert not any(loaded.differences.values())
    assert all(answer.isfinite().all() for answer in answers)
    assert (answers[0].flatten()[:3] - answers[1].flatten()[:3]).abs().max() > 1e-4


def test_the_table_is_wide_enough() -> None:
    assert len(ARCHITECTURES) >= 24
    assert OF_A_FAMILY.keys() == set(get_args(Family))


def test_a_checkpoint_loads_whole_and_tells_texts_apart(base: Loaded) -> None:
    check_it_loads_whole_and_tells_texts_apart(base)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "head"), HEADED)
def test_a_checkpoint_with_a_head_loads_whole_and_tells_texts_apart(name, head, tmp_path: Path) -> None:
    check_it_loads_whole_and_tells_texts_apart(load(name, head, tmp_path))


def test_padding_changes_the_answers_of_those_alone_that_are_said_not_to_pad(base: Loaded) -> None:
    together = base.answer(TEXTS, padding=True)
    alone = [base.answer(text)[0] for text in TEXTS]

    worst = max((row[: len(one)] - one).abs().max() for row, one in zip(together, alone, strict=True))
    assert (worst < 1e-4) == ARCHITECTURES[base.name].pads


def test_the_longest_text_fits(base: Loaded) -> None:
    longest = " ".join(["the"] * LONGEST)

    assert base.answer(longest, truncation=True).shape == (1, LONGEST, 64)


def test_transformers_tokenises_as_the_file_does(base: Loaded) -> None:
    plain = Tokenizer.from_file(str(base.path / "tokenizer.json"))

    assert base.tokenizer(TEXTS)["input_ids"] == [encoding.ids for encoding in plain.encode_batch(TEXTS)]


@pytest.mark.parametrize(
    ("name", "tokens", "types"),
    [
        ("bert", ["[CLS]", "the", "[SEP]", "wheel", "[SEP]"], [0, 0, 0, 1, 1]),
        ("roberta", ["<s>", "Ġthe", "</s>", "</s>", "Ġwheel", "</s>"], None),
        ("qwen3", ["Ġthe", "Ġwheel", "</s>"], None),
    ],
)
def test_pairs_are_framed_as_the_family_does(name, tokens, types, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(build(name, "base", tmp_path))

    pair = tokenizer(" the", " wheel")

    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == tokens
    assert pair.get("token_type_ids") == types


def test_labels_and_problem_type_are_in_the_configuration(tmp_path: Path) -> None:
    path = build(
        "bert", "SequenceClassification", tmp_path, labels=["no", "yes"], problem_type="multi_label_classification"
    )

    config = json.loads((path / "config.json").read_text())

    assert config["id2label"] == {"0": "no", "1": "yes"}
    assert config["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize("name", OF_A_FAMILY.values())
def test_the_same_call_writes_the_same_bytes(name, tmp_path: Path) -> None:
    first = build(name, "base", tmp_path / "1")
    torch.rand(1)

    second = build(name, "base", tmp_path / "2")

    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_building_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    build("bert", "base", tmp_path)

    assert torch.rand(1) == expected
