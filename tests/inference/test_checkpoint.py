import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from inference.checkpoint import Checkpoint, Dense, open_checkpoints, read_checkpoint
from inference.config import EngineConfig, ForModel, ModelSource
from inference.errors import CannotServe
from inference.tokenizer import TextTokenizer
from tests.architectures import build

ST = "sentence_transformers.models."


def change(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


@pytest.fixture
def folder(tiny_paths: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_paths["bert"], tmp_path / "model"))


def with_modules(folder: Path, *types: str, **pooling: object) -> Path:
    modules = [{"type": ST + name, "path": f"{i}_{name}" if i else ""} for i, name in enumerate(types)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_the_sentence_transformers_files_decide(minilm: Checkpoint) -> None:
    assert (minilm.pooling, minilm.normalise, minilm.max_length) == ("mean", True, 256)


def test_without_them_it_is_mean_pooling_and_length_one(folder: Path) -> None:
    checkpoint = read_checkpoint("m", folder)

    assert (checkpoint.pooling, checkpoint.normalise, checkpoint.max_length) == ("mean", True, None)


@pytest.mark.parametrize(
    ("key", "pooling"),
    [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_lasttoken", "last"),
    ],
)
def test_each_pooling_is_read(folder: Path, key: str, pooling: str) -> None:
    checkpoint = read_checkpoint(
        "m", with_modules(folder, "Transformer", "Pooling", **{key: True, "include_prompt": True})
    )

    assert (checkpoint.pooling, checkpoint.normalise) == (pooling, False)


@pytest.mark.parametrize(
    ("told", "pooling"), [("mean", "mean"), (["cls"], "cls"), ("lasttoken", "last"), ("max", "max")]
)
def test_a_pooling_is_read_as_it_is_written_today(folder: Path, told: object, pooling: str) -> None:
    checkpoint = read_checkpoint("m", with_modules(folder, "Transformer", "Pooling", pooling_mode=told))

    assert checkpoint.pooling == pooling


def refused(folder: Path) -> str:
    with pytest.raises(CannotServe) as error:
        read_checkpoint("m", folder)
    return str(error.value)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "modeling_custom.py", "x.pkl", "deep/er/hook.so", "a.ckpt", "PYTORCH.BIN"]
)
def test_files_that_can_run_code_are_refused(folder: Path, name: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")

    assert str(file) in refused(folder)


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("config.json", {"auto_map": {"AutoModel": "x--y.Z"}}),
        ("config.json", {"_attn_implementation_internal": "evil/kernel"}),
        ("config.json", {"_attn_implementation": "evil/kernel"}),
        ("config.json", {"nested": [{"auto_map": {"A": "b"}}]}),
        ("config.json", {"quantization_config": {"quant_method": "awq"}}),
        ("config.json", {"trust_remote_code": True}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}),
    ],
)
def test_configurations_that_name_code_are_refused(folder: Path, file: str, keys: dict[str, Any]) -> None:
    change(folder / file, **keys)

    assert f'{file} has "' in refused(folder)


def test_weights_must_be_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    assert "no model.safetensors" in refused(folder)


def test_a_part_that_would_be_left_out_is_refused(folder: Path) -> None:
    with_modules(folder, "Transformer", "Pooling", "LayerNorm", pooling_mode_mean_tokens=True)

    assert "its part LayerNorm in modules.json is not supported" in refused(folder)


@pytest.mark.parametrize(
    "order",
    [
        ("Pooling", "Transformer"),
        ("Transformer", "Pooling", "Normalize", "Dense"),
        ("Transformer", "Normalize"),
        ("Transformer", "Pooling", "SpladePooling"),
    ],
)
def test_parts_in_another_order_are_refused(folder: Path, order: tuple[str, ...]) -> None:
    with_modules(folder, *order, pooling_mode_mean_tokens=True)

    assert f"the order of its parts in modules.json, {' '.join(order)}, is not supported" in refused(folder)


def with_dense(folder: Path, *layers: dict[str, Any]) -> Path:
    """Put layers behind a mean pooling; each is a config of sentence-transformers' Dense."""
    with_modules(folder, "Transformer", "Pooling", *["Dense"] * len(layers), pooling_mode_mean_tokens=True)
    for place, layer in enumerate(layers, start=2):
        (folder / f"{place}_Dense").mkdir()
        (folder / f"{place}_Dense" / "config.json").write_text(json.dumps(layer))
    return folder


TANH = "torch.nn.modules.activation.Tanh"
DENSE = {"in_features": 64, "out_features": 32, "bias": True, "activation_function": TANH}


def test_layers_behind_the_pooling_are_read_in_their_order(folder: Path) -> None:
    last = {"in_features": 32, "out_features": 8, "bias": False, "module_input_name": "sentence_embedding"}
    last |= {"activation_function": "torch.nn.modules.linear.Identity", "module_output_name": None}

    layers = read_checkpoint("m", with_dense(folder, DENSE, last)).dense

    assert layers == (
        Dense(folder / "2_Dense", 64, 32, True, "Tanh"),
        Dense(folder / "3_Dense", 32, 8, False, "Identity"),
    )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"activation_function": "os.system"}, "the activation os.system of its part 2_Dense"),
        ({"activation_function": "torch.nn.modules.activation.Softmax"}, "Softmax"),
        ({"use_residual": True}, "use_residual True of its part Dense"),
        ({"module_input_name": "token_embeddings"}, "module_input_name 'token_embeddings'"),
        ({"dropout": 0.5}, "dropout 0.5 of its part Dense"),
        ({"in_features": "64"}, "no in_features and out_features"),
        ({"out_features": 0}, "no in_features and out_features"),
    ],
)
def test_a_layer_that_this_engine_would_run_otherwise_is_refused(
    folder: Path, changed: dict[str, Any], named: str
) -> None:
    assert named in refused(with_dense(folder, DENSE | changed))


def test_layers_that_do_not_fit_together_are_refused(folder: Path) -> None:
    assert "its part 3_Dense takes 64 numbers, and the layer before it gives 32" in refused(
        with_dense(folder, DENSE, DENSE)
    )


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"pooling_strategy": "sum", "activation_function": "relu"}, "pooling_strategy 'sum'"),
        ({"pooling_strategy": "max", "activation_function": "log1p_relu"}, "activation_function 'log1p_relu'"),
        ({"top_k": 8}, "top_k 8 of its part SpladePooling"),
    ],
)
def test_term_weights_of_another_kind_are_refused(folder: Path, config: dict[str, Any], named: str) -> None:
    with_splade(folder, config)

    assert named in refused(folder)


@pytest.mark.parametrize(
    "config", [{}, {"pooling_strategy": "max", "activation_function": "relu", "embedding_dimension": 9}]
)
def test_term_weights_of_the_known_kind_are_taken(folder: Path, config: dict[str, Any]) -> None:
    with_splade(folder, config)

    assert read_checkpoint("m", folder).task == "sparse"


def with_splade(folder: Path, config: dict[str, Any]) -> None:
    with_modules(folder, "MLMTransformer", "SpladePooling")
    (folder / "1_SpladePooling").mkdir()
    (folder / "1_SpladePooling" / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "pooling",
    [
        {},
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_sqrt_len_tokens": True},
        {"pooling_mode": ["mean", "cls"]},
        {"pooling_mode": "weightedmean"},
        {"pooling_mode": {"mean": 1}},
        {"pooling_mode_mean_tokens": True, "include_prompt": False},
    ],
)
def test_a_pooling_that_is_not_known_is_refused(folder: Path, pooling: dict[str, object]) -> None:
    with_modules(folder, "Transformer", "Pooling", **pooling)

    assert "pooling" in refused(folder)


def test_a_model_of_another_task_is_refused(folder: Path) -> None:
    change(folder / "config.json", architectures=["BertForQuestionAnswering"])

    assert "BertForQuestionAnswering" in refused(folder)


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe{}"], ids=["missing", "cut", "not utf-8"])
def test_a_configuration_that_cannot_be_read_is_refused(folder: Path, content: bytes | None) -> None:
    file = folder / "config.json"
    file.unlink() if content is None else file.write_bytes(content)

    assert "config.json" in refused(folder)


@pytest.mark.parametrize("content", ["[]", "3", '"x"'])
def test_a_configuration_of_the_wrong_shape_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)

    assert "config.json" in refused(folder)


def test_a_folder_that_is_not_there_is_named() -> None:
    config = EngineConfig(models=(ModelSource("m", "/no/such/folder"),))

    with pytest.raises(CannotServe, match="/no/such/folder"):
        open_checkpoints(config)


def test_a_task_that_is_told_beats_the_files(tmp_path: Path) -> None:
    path = build("bert", "MaskedLM", tmp_path)
    sources = (ModelSource("a", str(path)), ModelSource("b", str(path)), ModelSource("c", str(path), task="embed"))

    opened = open_checkpoints(EngineConfig(models=sources, tasks=(ForModel("b", "sparse"),)))

    assert [checkpoint.task for checkpoint in opened] == ["fill-mask", "sparse", "embed"]
    assert opened[0].tasks == ("fill-mask", "sparse", "embed")


@pytest.mark.usefixtures("minilm_path")
def test_a_task_is_told_for_the_built_in_model_too() -> None:
    with pytest.raises(CannotServe, match="BertModel cannot rerank; it can: embed"):
        open_checkpoints(EngineConfig(tasks=(ForModel(None, "rerank"),)))


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()

    with pytest.raises(CannotServe, match="tokenizer"):
        read_checkpoint("m", folder).tokenizer()


def test_lower_casing_that_the_files_ask_for_is_part_of_the_tokenizer(folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')

    lower, upper = TextTokenizer(read_checkpoint("m", folder).tokenizer(), 100).encode(["w1 w2", "W1 W2"])

    assert lower.ids.tolist() == upper.ids.tolist()


@pytest.mark.parametrize("named", ["../outside.safetensors", "weights.dat", "/etc/passwd", "deep/er.safetensors", 3])
def test_an_index_names_only_safetensors_in_the_folder(folder: Path, named: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": named}}))

    assert "its index names" in refused(folder)


@pytest.mark.parametrize("place", ["../pooling", "/pooling", "1_Pooling/../../x"])
def test_parts_lie_in_the_folder(folder: Path, place: str) -> None:
    (folder / "modules.json").write_text(json.dumps([{"type": ST + "Pooling", "path": place}]))

    assert "not in the folder" in refused(folder)


@pytest.mark.parametrize("value", [{"text": "sdpa"}, ["sdpa"], 3])
def test_an_attention_of_the_wrong_shape_is_refused(folder: Path, value: object) -> None:
    change(folder / "config.json", _attn_implementation=value)

    assert "_attn_implementation" in refused(folder)
