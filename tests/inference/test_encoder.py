import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from inference.checkpoint import Checkpoint, read_checkpoint
from inference.device import Device
from inference.encoder import Encoder, load_encoder
from inference.errors import CannotServe, RuntimeFailed
from inference.request import Batch, RowFailed, Tokens, packed_shape
from tests.fakes import Entry, Recorded, Request, call
from tests.tiny import PACKABLE, POSITIONS, TINY, VOCABULARY

CPU = Device(torch.device("cpu"))


def load(path: Path, dtype: torch.dtype = torch.float32) -> Encoder:
    return load_encoder(read_checkpoint("m", path), CPU, dtype)


def mixture(seed: int, longest: int, vocabulary: int, count: int = 12) -> list[Tokens]:
    """Random lengths with 1 token and the maximum among them, in random order."""
    chance = np.random.default_rng(seed)
    lengths = [1, longest, *chance.integers(1, longest + 1, count - 2)]
    chance.shuffle(lengths)
    return [chance.integers(5, vocabulary, length).astype(np.int32) for length in lengths]


def batch(sequences: list[Tokens]) -> Batch:
    owner = call(*(Request("m", tokens) for tokens in sequences))
    entries = tuple(Entry(item, owner, Recorded(), 0.0) for item in owner.requests)
    return Batch("m", entries, packed_shape([len(tokens) for tokens in sequences]), 0.0)


def through_transformers(path: Path, sequences: list[Tokens]) -> np.ndarray:
    """Each sequence alone through the plain model, mean-pooled to length 1."""
    model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    rows = []
    with torch.inference_mode():
        for tokens in sequences:
            hidden = model(input_ids=torch.tensor(tokens[None], dtype=torch.long)).last_hidden_state[0]
            rows.append(torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy())
    return np.stack(rows)


def assert_equal(answers: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(answers - expected).max() <= 1e-5
    assert (answers * expected).sum(1).min() >= 0.99999


@pytest.mark.parametrize("architecture", TINY)
def test_a_batch_answers_what_each_input_gets_alone(tiny_paths: dict[str, Path], architecture: str) -> None:
    encoder = load(tiny_paths[architecture])
    for seed in range(5):
        sequences = mixture(seed, encoder.max_length, VOCABULARY)

        answers = np.stack(encoder.launch(batch(sequences)).wait())

        assert_equal(answers, through_transformers(tiny_paths[architecture], sequences))


@pytest.mark.parametrize("architecture", TINY)
def test_the_self_test_finds_out_who_may_be_packed(tiny_paths: dict[str, Path], architecture: str) -> None:
    encoder = load(tiny_paths[architecture])

    assert encoder.packed is (architecture in PACKABLE)
    assert encoder.packed or "ignores" in str(encoder.padded_because)


@pytest.mark.parametrize(("architecture", "layers"), [("bert", 12), ("mpnet", 0)])
def test_weights_are_laid_out_where_sequences_are_packed(
    tiny_paths: dict[str, Path], architecture: str, layers: int
) -> None:
    encoder = Encoder(read_checkpoint("m", tiny_paths[architecture]), CPU, torch.float32)
    encoder.choose_packing()
    sequences = mixture(0, encoder.max_length, VOCABULARY)
    before = np.stack(encoder.launch(batch(sequences)).wait())

    changed = encoder.prepack()

    assert changed == layers + bool(layers)  # and BERT's pooler
    assert_equal(np.stack(encoder.launch(batch(sequences)).wait()), before)


@pytest.mark.parametrize(("dtype", "laid"), [(torch.float32, 0), (torch.bfloat16, 13)])
@pytest.mark.parametrize("gains", [1.0, 2.0])
def test_weights_are_laid_out_where_that_gains_enough(
    tiny_paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, laid: int, gains: float
) -> None:
    told = []
    prepack = Encoder.prepack
    monkeypatch.setattr(Encoder, "prepack", lambda encoder, least: told.append(prepack(encoder, least)) or told[-1])
    monkeypatch.setattr("inference.prepacked.gain", lambda inputs, outputs: gains)

    load_encoder(read_checkpoint("m", tiny_paths["bert"]), CPU, dtype)

    assert sum(told) == (13 if gains > 1.0 else laid)


@pytest.mark.parametrize(("architecture", "longest"), [("bert", POSITIONS), ("roberta", POSITIONS - 2)])
def test_the_positions_of_the_model_limit_the_length(
    tiny_paths: dict[str, Path], architecture: str, longest: int
) -> None:
    assert load(tiny_paths[architecture]).max_length == longest


def test_the_real_model_answers_as_transformers_does(minilm: Checkpoint) -> None:
    encoder = load_encoder(minilm, CPU, torch.float32)
    sequences = mixture(0, 256, 30000, count=20)

    answers = np.stack(encoder.launch(batch(sequences)).wait())

    assert encoder.packed
    assert_equal(answers, through_transformers(minilm.path, sequences))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_served_when_it_agrees_with_float32(minilm: Checkpoint, dtype: torch.dtype) -> None:
    encoder = load_encoder(minilm, CPU, dtype)
    sequences = mixture(1, 100, 30000, count=6)

    answers = np.stack(encoder.launch(batch(sequences)).wait())

    assert (answers * through_transformers(minilm.path, sequences)).sum(1).min() > 0.999


def with_weights(source: Path, folder: Path, scale: float) -> Path:
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.weight"] *= scale
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_precision_that_overflows_is_not_served(tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    path = with_weights(tiny_paths["bert"], tmp_path / "loud", 1e30)

    with pytest.raises(CannotServe, match="float32"):
        load(path, torch.float16)


def test_weights_that_are_missing_are_not_made_up(tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_paths["bert"], tmp_path / "holey"))
    weights = load_file(path / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CannotServe, match="the weights lack"):
        load(path)


@pytest.mark.parametrize("spoil", [b"", b"not safetensors at all", bytes(200)], ids=["empty", "text", "zeros"])
def test_weights_that_cannot_be_read_are_one_clear_error(
    tiny_paths: dict[str, Path], tmp_path: Path, spoil: bytes
) -> None:
    path = Path(shutil.copytree(tiny_paths["bert"], tmp_path / "spoilt"))
    (path / "model.safetensors").write_bytes(spoil)

    with pytest.raises(CannotServe, match="model m"):
        load(path)


def test_an_architecture_that_transformers_does_not_know_is_one_clear_error(
    tiny_paths: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(tiny_paths["bert"], tmp_path / "alien"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"model_type": "alien"}))

    with pytest.raises(CannotServe, match="model m"):
        load(path)


def test_a_row_that_is_not_finite_fails_alone(tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_paths["bert"], tmp_path / "poisoned"))
    weights = load_file(path / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][50] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    encoder = Encoder(read_checkpoint("m", path), CPU, torch.float32)
    encoder.padded_because = None
    encoder.choose_packing()
    good, bad = np.array([2, 9, 3], np.int32), np.array([2, 50, 3], np.int32)

    outcomes = encoder.launch(batch([good, bad, good])).wait()

    assert isinstance(outcomes[1], RowFailed)
    assert np.isfinite(outcomes[0]).all() and np.isfinite(outcomes[2]).all()


def test_whatever_the_model_raises_is_a_runtime_failure(tiny_paths: dict[str, Path]) -> None:
    encoder = load(tiny_paths["bert"])

    with pytest.raises(RuntimeFailed, match="IndexError"):
        encoder.launch(batch([np.array([VOCABULARY + 1], np.int32)]))


@pytest.mark.parametrize("architecture", TINY)
def test_padding_ids_that_a_caller_sends_count_as_transformers_counts_them(
    tiny_paths: dict[str, Path], architecture: str
) -> None:
    encoder = load(tiny_paths[architecture])
    sequences = [np.array(ids, np.int32) for ids in ([2, 10, 11, 1, 12, 13, 3], [1, 9, 1], [2, 9, 3])]

    answers = np.stack(encoder.launch(batch(sequences)).wait())

    assert_equal(answers, through_transformers(tiny_paths[architecture], sequences))


def with_dense(path: Path, folder: Path, widths: list[int]) -> Path:
    """Copy a model and put layers of these widths behind a mean pooling: tanh with a bias, then plain ones."""
    kinds = ["Transformer", "Pooling", *["Dense"] * len(widths), "Normalize"]
    parts = [{"type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}"} for i, kind in enumerate(kinds)]
    shutil.copytree(path, folder)
    (folder / "modules.json").write_text(json.dumps(parts))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    chance, inputs = torch.Generator().manual_seed(0), 64
    for place, outputs in enumerate(widths, start=2):
        first = place == 2
        weights = {"linear.weight": torch.randn(outputs, inputs, generator=chance)}
        weights |= {"linear.bias": torch.randn(outputs, generator=chance)} if first else {}
        activation = "activation.Tanh" if first else "linear.Identity"
        config = {"in_features": inputs, "out_features": outputs, "bias": first}
        config["activation_function"] = f"torch.nn.modules.{activation}"
        (folder / f"{place}_Dense").mkdir()
        (folder / f"{place}_Dense" / "config.json").write_text(json.dumps(config))
        save_file(weights, folder / f"{place}_Dense" / "model.safetensors")
        inputs = outputs
    return folder


@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_layers_behind_the_pooling_answer_as_in_plain_torch(
    tiny_paths: dict[str, Path], architecture: str, tmp_path: Path
) -> None:
    path = with_dense(tiny_paths[architecture], tmp_path / "dense", [96, 24])
    first, last = (load_file(path / f"{place}_Dense" / "model.safetensors") for place in (2, 3))
    model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    sequences = mixture(3, 60, VOCABULARY)
    encoder = load(path)

    answers = np.stack(encoder.launch(batch(sequences)).wait())

    with torch.inference_mode():
        hidden = [model(input_ids=torch.tensor(ids[None], dtype=torch.long)).last_hidden_state[0] for ids in sequences]
        middle = torch.tanh(
            torch.stack([states.mean(0) for states in hidden]) @ first["linear.weight"].T + first["linear.bias"]
        )
        expected = torch.nn.functional.normalize(middle @ last["linear.weight"].T)
    assert encoder.hidden_size == 24
    assert_equal(answers, expected.numpy())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"linear.weight": torch.zeros(96, 63), "linear.bias": torch.zeros(96)}, "size mismatch for weight"),
        ({"linear.weight": torch.zeros(96, 64)}, 'Missing key.*"bias"'),
        ({"linear.weight": torch.zeros(96, 64), "linear.bias": torch.zeros(96), "x": torch.zeros(1)}, "Unexpected key"),
    ],
)
def test_a_layer_with_other_weights_than_it_says_is_refused(
    tiny_paths: dict[str, Path], tmp_path: Path, change: dict[str, torch.Tensor], named: str
) -> None:
    path = with_dense(tiny_paths["bert"], tmp_path / "dense", [96])
    save_file(change, path / "2_Dense" / "model.safetensors")

    with pytest.raises(CannotServe, match=f"2_Dense.*{named}"):
        load(path)


def test_a_layer_without_weights_is_refused(tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    path = with_dense(tiny_paths["bert"], tmp_path / "dense", [96])
    (path / "2_Dense" / "model.safetensors").unlink()

    with pytest.raises(CannotServe, match="2_Dense"):
        load(path)


def test_a_layer_that_does_not_fit_the_model_is_refused(tiny_paths: dict[str, Path], tmp_path: Path) -> None:
    path = with_dense(tiny_paths["bert"], tmp_path / "dense", [96])
    config = path / "2_Dense" / "config.json"
    config.write_text(config.read_text().replace('"in_features": 64', '"in_features": 48'))

    with pytest.raises(CannotServe, match="its part 2_Dense takes 48 numbers, and the pooling gives 64"):
        load(path)
