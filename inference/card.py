"""
What a checkpoint is, said without loading it: from its files alone, of the weights no more than their headers.

What only a loaded model can tell (`Loaded`) is measured elsewhere and put beside it.
"""

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from inference.checkpoint import Checkpoint, read_json
from inference.errors import CannotServe
from inference.fetch import sha256
from inference.task import Ability, ProblemType, Task, abilities

_MOST_HEADER: Final = 100_000_000  # bytes, the format's own limit
_UNLIMITED: Final = 1_000_000  # tokens: transformers says 1e30 where a tokenizer has no limit
_NUMBERS: Final = ("F", "BF")  # dtypes of parameters; integers are positions and the like
_POSITIONS: Final = ("max_position_embeddings", "n_positions")
_LICENCE: Final = re.compile(r"^license(?:_name)?:[ \t]*(?:\n\s*-\s*)?[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file of weights, and the digest that names its content."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a model turned out to be when it was loaded as `serve` would load it."""

    packed: bool
    padded_because: str | None
    dtype: str
    device: str
    hidden_size: int
    max_length: int
    load_s: float
    warm_up_s: float
    weight_bytes: int
    process_bytes: int | None
    bytes_per_token: float


@dataclass(frozen=True, slots=True)
class Card:
    """A checkpoint's own words; None: does not apply to its task, or nobody says."""

    name: str
    path: str
    revision: str | None
    task: Task
    tasks: tuple[Task, ...]
    abilities: tuple[Ability, ...]
    architecture: str
    pooling: str | None
    dense: tuple[str, ...]
    normalised: bool | None
    labels: tuple[str, ...]
    problem_type: ProblemType | None
    prompts: Mapping[str, str]
    default_prompt: str | None
    max_length: int | None  # tokens; at most so many, where positions are counted from the padding id
    parameters: int
    bytes_by_dtype: Mapping[str, int]
    weights: tuple[WeightFile, ...]
    licence: str | None
    tokenizer: str
    vocabulary: int


def read_card(checkpoint: Checkpoint) -> Card:
    """Say what a checkpoint is; raises CannotServe."""
    embeds, labelled = checkpoint.task == "embed", checkpoint.task in ("classify", "token-classify")
    files = _weight_files(checkpoint)
    tensors = [tensor for file in files for tensor in _tensors(file)]
    tokenizer = checkpoint.tokenizer()
    return Card(
        name=checkpoint.name,
        path=str(checkpoint.path),
        revision=checkpoint.revision,
        task=checkpoint.task,
        tasks=checkpoint.tasks,
        abilities=abilities(checkpoint.task, checkpoint.labels),
        architecture=checkpoint.architecture,
        pooling=checkpoint.pooling if embeds else None,
        dense=tuple(f"{layer.inputs} to {layer.outputs}, {layer.activation}" for layer in checkpoint.dense),
        normalised=checkpoint.normalise if embeds else None,
        labels=checkpoint.labels if labelled else (),
        problem_type=checkpoint.problem_type if checkpoint.task == "classify" else None,
        prompts=checkpoint.prompts,
        default_prompt=checkpoint.default_prompt,
        max_length=_max_length(checkpoint, tokenizer.max_length),
        parameters=sum(tensor.parameters for tensor in tensors if tensor.dtype.startswith(_NUMBERS)),
        bytes_by_dtype=_by_dtype(tensors),
        weights=tuple(
            WeightFile(file.relative_to(checkpoint.path).as_posix(), file.stat().st_size, sha256(file))
            for file in files
        ),
        licence=_licence(checkpoint.path),
        tokenizer=str(json.loads(tokenizer.json)["model"]["type"]),
        vocabulary=Tokenizer.from_str(tokenizer.json).get_vocab_size(with_added_tokens=True),
    )


def weight_bytes(checkpoint: Checkpoint, number_bytes: int) -> int:
    """Return what a checkpoint's weights take with so many bytes a number; raises CannotServe."""
    tensors = [tensor for file in _weight_files(checkpoint) for tensor in _tensors(file)]
    return sum(t.parameters * number_bytes if t.dtype.startswith(_NUMBERS) else t.bytes for t in tensors)


@dataclass(frozen=True, slots=True)
class _Tensor:
    dtype: str
    parameters: int
    bytes: int


def _weight_files(checkpoint: Checkpoint) -> list[Path]:
    """The files that a load reads: one, or those that the index names, and the layers behind the pooling."""
    whole = checkpoint.path / "model.safetensors"
    if whole.is_file():
        files = [whole]
    else:
        index = read_json(checkpoint.path / "model.safetensors.index.json", dict)
        files = sorted({checkpoint.path / name for name in index.get("weight_map", {}).values()})
    return files + [layer.folder / "model.safetensors" for layer in checkpoint.dense]


def _tensors(file: Path) -> list[_Tensor]:
    """Read the header of a safetensors file: its length in 8 bytes, then JSON."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MOST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        return [
            _Tensor(str(each["dtype"]), math.prod(each["shape"]), each["data_offsets"][1] - each["data_offsets"][0])
            for each in header.values()
        ]
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as err:
        raise CannotServe(f"{file} is not a safetensors file ({err})") from err


def _by_dtype(tensors: Iterable[_Tensor]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.bytes
    return dict(sizes.most_common())


def _max_length(checkpoint: Checkpoint, of_tokenizer: int) -> int | None:
    config = json.loads((checkpoint.path / "config.json").read_bytes())
    limits = [checkpoint.max_length, of_tokenizer, *(config.get(key) for key in _POSITIONS)]
    return min((limit for limit in limits if isinstance(limit, int) and 0 < limit < _UNLIMITED), default=None)


def _licence(folder: Path) -> str | None:
    """What the front matter of README.md names, else the first line of a licence file."""
    readme = _text(folder / "README.md")
    if readme.startswith("---"):
        named: list[str] = _LICENCE.findall(readme.split("\n---", 1)[0])
        if named:
            return next((each for each in named if each != "other"), named[0])
    lines = [line.strip() for file in sorted(folder.glob("LICEN[CS]E*")) for line in _text(file).splitlines()]
    return next((line for line in lines if line), None)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
