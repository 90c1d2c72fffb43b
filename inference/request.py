"""
The nouns of the way through: Request -> Call -> Entry -> Batch -> Result, and the Report of a batch.

Values only: no torch, no asyncio, no policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from inference.errors import InferenceError

_VERSION_MARK: Final = "@"  # no name of a model holds it

Tokens = npt.NDArray[np.int32]
"""Token ids of one input, special tokens included: [tokens], int32."""

Row = npt.NDArray[np.float32]
"""What the model made of one input, float32; its shape is the output's."""

Output = Literal["vector", "raw vector", "token vectors", "logits", "token logits", "mask logits", "term weights"]
"""
What is asked of a model, and the shape of its row:
`vector` [hidden] as its checkpoint scales it, `raw vector` [hidden] unscaled, `token vectors` [tokens, hidden],
`logits` [labels], `token logits` [tokens, labels], `mask logits` [masks, vocabulary], `term weights` [vocabulary].
"""


def loaded_as(name: str, version: int) -> str:
    """Return what a version of a model is called between client and device: two of them may be loaded at once."""
    return name if version == 1 else f"{name}{_VERSION_MARK}{version}"


def name_of(model: str) -> str:
    """Return a model's own name, whichever version it is."""
    return model.partition(_VERSION_MARK)[0]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One input to one model, and what is asked about it."""

    model: str  # as `loaded_as` says
    tokens: Tokens
    types: Tokens | None = None  # token types, [tokens]; None: the model takes none, or all are 0
    output: Output = "vector"


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """The requests of one HTTP exchange: admitted whole or refused whole."""

    requests: Sequence[Request]
    deadline: float  # seconds, engine clock
    caller: str = ""
    priority: int = 0  # higher runs earlier


class Reply(Protocol):
    """Where an outcome goes. Only the batcher touches it, and only on the event loop."""

    def succeed(self, result: "Result") -> None:
        """Deliver the answer; late or repeated deliveries are dropped."""

    def fail(self, error: InferenceError) -> None:
        """Deliver the failure; late or repeated deliveries are dropped."""


@dataclass(slots=True, eq=False)
class Entry:
    """A request that waits, with the address of its reply."""

    request: Request
    call: Call
    reply: Reply
    arrived: float  # seconds, engine clock
    deadline: float = field(init=False)  # when its answer is worth nothing; later if a later call waits for it too
    tokens: int = field(init=False)
    shape: "Shape" = field(init=False)  # what it costs alone, without padding

    def __post_init__(self) -> None:
        self.deadline = self.call.deadline
        self.tokens = len(self.request.tokens)
        self.shape = Shape(self.tokens, 1, self.tokens * self.tokens)

    @property
    def model(self) -> str:
        """The model that must run it."""
        return self.request.model


@dataclass(frozen=True, slots=True)
class Shape:
    """What a batch costs by: what the device computes, padding included."""

    tokens: int = 0
    sequences: int = 0
    squares: int = 0  # sum of squared lengths, what attention pays

    def __add__(self, other: "Shape") -> "Shape":
        """Return the shape of both together."""
        return Shape(self.tokens + other.tokens, self.sequences + other.sequences, self.squares + other.squares)

    def __sub__(self, other: "Shape") -> "Shape":
        """Return what is left without the other."""
        return Shape(self.tokens - other.tokens, self.sequences - other.sequences, self.squares - other.squares)


def packed_shape(lengths: Sequence[int]) -> Shape:
    """Shape of sequences laid end to end: no padding."""
    return Shape(sum(lengths), len(lengths), sum(n * n for n in lengths))


def padded_shape(lengths: Sequence[int]) -> Shape:
    """Shape of sequences padded to the longest."""
    longest, count = max(lengths), len(lengths)
    return Shape(longest * count, count, longest * longest * count)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Entries of one model that run together."""

    model: str
    entries: tuple[Entry, ...]
    shape: Shape
    predicted_s: float
    device: str = ""  # that took it

    @property
    def tokens(self) -> int:
        """Real tokens, padding left out."""
        return sum(entry.tokens for entry in self.entries)


@dataclass(frozen=True, slots=True)
class RowFailed:
    """The model's answer for this row is not usable; its neighbours are."""

    reason: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one answer went, in seconds, and the batch that it came of; a kept answer has none."""

    queue_s: float
    device_s: float
    batch: "Report | None" = None


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The answer to one request."""

    row: Row
    timings: Timings


@dataclass(frozen=True, slots=True)
class Dispatched:
    """A batch leaves for the device: how long each of its entries waited, in seconds."""

    model: str
    waits_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a batch."""

    model: str
    sequences: int
    tokens: int
    padded_tokens: int
    predicted_s: float
    device_s: float
    error: str | None = None  # the class of the error that failed the whole batch
    peak_bytes: int | None = None  # what it allocated at the most, beside what the models hold, if the device tells
    number: int = 0  # like no other of this process
    started: float = 0.0  # seconds, engine clock
