import hashlib
import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.card import Card, read_card
from inference.checkpoint import read_checkpoint
from inference.errors import CannotServe
from tests.architectures import build


@pytest.fixture
def folder(tiny_paths: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_paths["bert"], tmp_path / "model"))


def card(folder: Path) -> Card:
    return read_card(read_checkpoint("m", folder))


def test_the_real_embedder_is_known_without_loading_it(minilm_path: Path) -> None:
    found = read_card(read_checkpoint("minilm", minilm_path, "r"))

    assert (found.task, found.pooling, found.normalised, found.max_length) == ("embed", "mean", True, 256)
    assert (found.abilities, found.architecture, found.revision) == (("embed", "similarity"), "BertModel", "r")
    assert found.parameters == 22_713_216
    assert found.bytes_by_dtype == {"F32": 4 * 22_713_216, "I64": 8 * 512}
    assert [weights.sha256[:12] for weights in found.weights] == ["53aa51172d14"]
    assert (found.licence, found.tokenizer, found.vocabulary) == ("apache-2.0", "WordPiece", 30_522)


def test_the_real_reranker_says_so(reranker_path: Path) -> None:
    found = card(reranker_path)

    assert (found.task, found.tasks) == ("rerank", ("classify", "rerank"))
    assert (found.pooling, found.normalised, found.labels, found.problem_type) == (None, None, (), None)
    assert found.licence == "Apache License"


def test_the_real_tagger_says_its_labels(pii_tagger_path: Path) -> None:
    found = card(pii_tagger_path)

    assert (found.task, len(found.labels), found.problem_type) == ("token-classify", 35, None)


def test_a_classifier_says_how_its_logits_are_read(tmp_path: Path) -> None:
    found = card(build("bert", "SequenceClassification", tmp_path, problem_type="multi_label_classification"))

    assert (found.labels, found.problem_type) == (("A", "B", "C"), "multi_label_classification")


def test_shards_count_together(folder: Path) -> None:
    whole = card(folder)
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    shards = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for file, keys in shards.items():
        save_file({key: weights[key].to(torch.bfloat16) for key in keys}, folder / file)
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()

    found = card(folder)

    assert found.parameters == whole.parameters > 0
    assert found.bytes_by_dtype == {"BF16": 2 * found.parameters}
    assert {each.file: each.sha256 for each in found.weights} == {
        file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in shards
    }


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01\x00", struct.pack("<Q", 1 << 62), struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b'{"a": {}}'],
)
def test_weights_with_another_header_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)

    with pytest.raises(CannotServe, match="is not a safetensors file"):
        card(folder)


@pytest.mark.parametrize(
    ("readme", "licence", "found"),
    [
        ("---\ntags:\n- a\nlicense: mit\n---\nlicense: gpl", None, "mit"),
        ("---\nlicense:\n- apache-2.0\n---\n", "MIT License", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", None, "gemma"),
        ("---\nlicense: other\n---\n", None, "other"),
        ('---\nlicense: "cc-by-4.0"\n---\n', None, "cc-by-4.0"),
        ("# license: mit\n", "\n  Apache License  \nVersion 2.0", "Apache License"),
        ("", "", None),
    ],
)
def test_the_licence_is_what_its_files_name(folder: Path, readme: str, licence: str | None, found: str | None) -> None:
    (folder / "README.md").write_text(readme)
    if licence is not None:
        (folder / "LICENSE.txt").write_text(licence)

    assert card(folder).licence == found


def test_without_any_limit_there_is_no_maximum_length(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    limited = card(folder).max_length
    (folder / "config.json").write_text(json.dumps(config))

    assert (limited, card(folder).max_length) == (130, None)
