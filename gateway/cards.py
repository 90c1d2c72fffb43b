"""What is known of a checkpoint, as text for people; its fields are what machines read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from inference import Card, Drift, Loaded


@dataclass(frozen=True, slots=True)
class Page:
    """A checkpoint's card, what it was when loaded, and how far its answers are from golden ones."""

    card: Card
    loaded: Loaded | None = None
    golden: tuple[Drift, ...] = ()

    @property
    def drifted(self) -> bool:
        """Whether an answer is beyond its tolerance."""
        return any(drift.drifted for drift in self.golden)

    def __str__(self) -> str:
        """The name, then a line for each thing that is known."""
        rows = [*_of_files(self.card), *(_of_load(self.loaded) if self.loaded else ())]
        rows += [("golden", f"{drift}: {'DRIFTED' if drift.drifted else 'ok'}") for drift in self.golden]
        return "\n".join([self.card.name, *(f"  {label:<13}{text}" for label, text in rows)])


def _of_files(card: Card) -> Iterator[tuple[str, str]]:
    others = [task for task in card.tasks if task != card.task]
    yield "folder", card.path
    yield "revision", card.revision or "none"
    yield "task", card.task + (f"; may be told to {', '.join(others)}" if others else "")
    yield "abilities", ", ".join(card.abilities)
    yield "architecture", card.architecture or "not told"
    if card.pooling is not None:
        yield "pooling", ", then ".join([card.pooling, *card.dense, *(["length 1"] if card.normalised else [])])
    if card.labels:
        yield "labels", f"{len(card.labels)}: {', '.join(card.labels)}"
    if card.problem_type is not None:
        yield "problem type", card.problem_type
    for name, prompt in card.prompts.items():
        yield "prompt", f"{name}{' (default)' if name == card.default_prompt else ''}: {prompt!r}"
    yield "length", f"at most {card.max_length} tokens" if card.max_length else "no limit told"
    yield "parameters", f"{card.parameters}: {_sizes(card.bytes_by_dtype)}"
    for weights in card.weights:
        yield "weights", f"{weights.file}, {weights.bytes} bytes, sha256 {weights.sha256}"
    yield "licence", card.licence or "not told"
    yield "tokenizer", f"{card.tokenizer}, {card.vocabulary} tokens"


def _of_load(loaded: Loaded) -> Iterator[tuple[str, str]]:
    process = "unknown" if loaded.process_bytes is None else loaded.process_bytes
    yield "runs", "packed" if loaded.packed else f"padded, since {loaded.padded_because}"
    yield "as", f"{loaded.dtype} on {loaded.device}, {loaded.max_length} tokens, width {loaded.hidden_size}"
    yield "loaded in", f"{loaded.load_s:.3g} s, warmed up in {loaded.warm_up_s:.3g} s"
    yield (
        "memory",
        f"weights {loaded.weight_bytes} bytes, process {process}, {loaded.bytes_per_token:.0f} bytes a token",
    )


def _sizes(bytes_by_dtype: Mapping[str, int]) -> str:
    return ", ".join(f"{size} bytes {dtype}" for dtype, size in bytes_by_dtype.items())
