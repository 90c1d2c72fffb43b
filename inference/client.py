"""
What the gateway holds: text in, vectors out.

Checks what can be checked on the host before anything is queued, tokenises, submits, and shapes the
answer. Knows no HTTP and no tensor; the engine behind it may be in this process or not.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from inference.config import Limits
from inference.errors import DeadlineExceeded, DeviceLost, InvalidRequest, Overloaded, Unavailable, UnknownModel
from inference.request import Call, Request, Result, Row, Shape, Tokens
from inference.scheduler import Work
from inference.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from inference.batcher import BatcherStatistics
    from inference.engine import Engine, ServedModel

_ON_THE_LOOP_TEXTS: Final = 64
_ON_THE_LOOP_BYTES: Final = 2000  # shorter texts are tokenised at once: a thread's round trip costs more
_FIRST_RATIO: Final = 0.05  # tokens a character, before anything was learned: English has 0.2 to 0.25


@dataclass(frozen=True, slots=True)
class Inputs:
    """Texts or lists of token ids, and how their caller names them."""

    items: Sequence[str] | Sequence[Sequence[int]]
    field: str = "input"
    single: bool = False

    def name(self, index: int) -> str:
        """Return what the caller calls the item at this index."""
        return self.field if self.single else f"{self.field}[{index}]"


@dataclass(frozen=True, slots=True)
class Embed:
    """One call for embeddings, in no dialect."""

    inputs: Inputs
    timeout_s: float
    model: str | None = None
    dimensions: int | None = None
    truncate: bool = False
    caller: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class CallTimings:
    """Where the time of a call went, in seconds: queue and device of its slowest input."""

    tokenise_s: float
    queue_s: float
    device_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors in the order of the inputs, [dimensions] float32 each, and the real tokens they cost."""

    model: str
    vectors: Sequence[Row]
    tokens: int
    timings: CallTimings


class Client:
    """The way from a dialect to the engine."""

    def __init__(
        self,
        engine: "Engine",
        limits: Limits,
        *,
        auto_truncate: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the engine, whose `load` may still be to come."""
        self._engine = engine
        self._limits = limits
        self._auto_truncate = auto_truncate
        self._clock = clock
        self._closing = False
        self._served: dict[str, _Served] = {}

    @property
    def models(self) -> "Mapping[str, ServedModel]":
        """What is served, by name; empty while starting."""
        return {name: served.model for name, served in self._served.items()}

    @property
    def healthy(self) -> bool:
        """Whether every device thread is alive and moving; true while starting."""
        return self._engine.healthy

    async def start(self) -> None:
        """Load every model and begin to serve; raises CannotServe."""
        await asyncio.to_thread(self._engine.load)
        self._engine.start()
        self._served = {name: _Served(model) for name, model in self._engine.models.items()}

    async def lost(self) -> None:
        """Wait until a device is lost."""
        await self._engine.lost()

    def abandon(self) -> int:
        """Fail every call that is not answered yet with Unavailable; returns how many."""
        return self._engine.abandon()

    async def stop(self) -> None:
        """Answer what was admitted, then stop."""
        self._closing = True
        if self.healthy:
            await self._engine.drained()
        await asyncio.to_thread(self._engine.close)

    def statistics(self) -> "BatcherStatistics | None":
        """Take a snapshot of the engine; None while starting."""
        return self._engine.statistics()

    async def embed(self, ask: Embed) -> Embeddings:
        """Embed every input of a call, or none; raises InferenceError."""
        started = self._clock()
        served = self._find(ask.model)
        dimensions = _check_dimensions(ask, served.model)
        _check_items(ask.inputs, self._limits.max_items)
        deadline = started + ask.timeout_s
        self._first_gate(served, ask, deadline)
        try:
            async with asyncio.timeout(ask.timeout_s):
                tokens = await self._tokenise(served, ask)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the text was tokenised") from None
        total = _check_total(tokens, ask.inputs, self._limits.max_waiting_tokens)
        requests = [Request(served.model.name, ids) for ids in tokens]
        tokenise_s = self._clock() - started
        results = await self._engine.submit(Call(requests, deadline, ask.caller, ask.priority))
        vectors = [_shorten(result.row, dimensions, served.model.normalised) for result in results]
        return Embeddings(served.model.name, vectors, total, _timings(tokenise_s, results))

    def _find(self, name: str | None) -> "_Served":
        if not self.healthy:
            raise DeviceLost("the device answers no more")
        if not self._served or self._closing:
            raise Unavailable("draining" if self._closing else "starting")
        if name is None and len(self._served) == 1:
            return next(iter(self._served.values()))
        if name is None or name not in self._served:
            known = ", ".join(self._served)
            raise UnknownModel(f"the model {name!r} is not served; there is: {known}", "model")
        return self._served[name]

    def _first_gate(self, served: "_Served", ask: Embed, deadline: float) -> None:
        """Refuse by an estimate from the length of the text, before tokenising costs anything."""
        likely = served.estimate(ask.inputs)
        least = _half(likely) if isinstance(ask.inputs.items[0], str) else likely
        refused = self._engine.refusal(Work(served.model.name, least, deadline, ask.caller, ask.priority, likely))
        if refused is not None:
            raise Overloaded(refused.reason, refused.retry_after_s)

    async def _tokenise(self, served: "_Served", ask: Embed) -> list[Tokens]:
        truncate = ask.truncate or self._auto_truncate
        texts = [item for item in ask.inputs.items if isinstance(item, str)]
        if not texts:
            lists = [item[: served.model.max_length] for item in ask.inputs.items] if truncate else ask.inputs.items
            _check_lengths(lists, ask.inputs, served.model.max_length)
            return [_checked_ids(ids, ask.inputs.name(i), served.model) for i, ids in enumerate(lists)]
        if len(texts) <= _ON_THE_LOOP_TEXTS and sum(map(len, texts)) < _ON_THE_LOOP_BYTES:
            tokens = served.encode(texts, truncate)
        else:
            tokens = await asyncio.to_thread(served.encode, texts, truncate)
        _check_lengths(tokens, ask.inputs, served.model.max_length)
        return tokens


class _Served:
    """A model with its tokenizer, and what its texts cost so far."""

    def __init__(self, model: "ServedModel") -> None:
        self.model = model
        self._tokenizer = TextTokenizer(model.tokenizer_json, model.max_length)
        self._tokens, self._characters = _FIRST_RATIO, 1.0  # fading sums

    def encode(self, texts: Sequence[str], truncate: bool) -> list[Tokens]:
        tokens = self._tokenizer.encode(texts, truncate=truncate)
        self._tokens += 0.01 * (sum(map(len, tokens)) - self._tokens)
        self._characters += 0.01 * (sum(map(len, texts)) - self._characters)
        return tokens

    def estimate(self, inputs: Inputs) -> Shape:
        """About what the inputs cost."""
        size = sum(map(len, inputs.items))
        share = self._tokens / self._characters if isinstance(inputs.items[0], str) else 1.0
        count = len(inputs.items)
        tokens = min(max(count, round(share * size)), count * self.model.max_length)
        return Shape(tokens, count, tokens * tokens // count)


def _half(shape: Shape) -> Shape:
    """What is asked of the first gate: it must not refuse what the second would admit."""
    tokens = max(shape.sequences, shape.tokens // 2)
    return Shape(tokens, shape.sequences, tokens * tokens // shape.sequences)


def _check_items(inputs: Inputs, most: int) -> None:
    if not inputs.items:
        raise InvalidRequest("must not be empty", inputs.field)
    if len(inputs.items) > most:
        raise InvalidRequest(f"has {len(inputs.items)} items, at most {most} are taken in one call", inputs.field)
    for index, item in enumerate(inputs.items):
        if len(item) == 0:
            raise InvalidRequest("must not be empty", inputs.name(index))


def _check_dimensions(ask: Embed, model: "ServedModel") -> int | None:
    if ask.dimensions is not None and not 1 <= ask.dimensions <= model.hidden_size:
        raise InvalidRequest(f"must be between 1 and {model.hidden_size} for {model.name}", "dimensions")
    return ask.dimensions


def _checked_ids(ids: object, name: str, model: "ServedModel") -> Tokens:
    array = np.asarray(ids, np.int64)
    if array.min() < 0 or array.max() >= model.vocab_size:
        raise InvalidRequest(f"token ids must be between 0 and {model.vocab_size - 1} for {model.name}", name)
    return array.astype(np.int32)


def _check_lengths(tokens: Sequence[Sized], inputs: Inputs, most: int) -> None:
    for index, ids in enumerate(tokens):
        if len(ids) > most:
            raise InvalidRequest(
                f'has more than the {most} tokens that the model reads: shorten it, or send "truncate": true',
                inputs.name(index),
            )
        if len(ids) == 0:
            raise InvalidRequest("holds nothing that the model's tokenizer knows", inputs.name(index))


def _check_total(tokens: Sequence[Tokens], inputs: Inputs, most: int) -> int:
    total = sum(map(len, tokens))
    if total > most:
        raise InvalidRequest(f"has {total} tokens in all, at most {most} are taken in one call", inputs.field)
    return total


def _shorten(row: Row, dimensions: int | None, normalised: bool) -> Row:
    """Matryoshka embedding (Kusupati et al. 2022): the first dimensions, scaled to length 1 again."""
    if dimensions is None or dimensions == len(row):
        return row
    head = row[:dimensions]
    length = float(np.linalg.norm(head)) if normalised else 1.0
    return head / np.float32(length or 1.0)


def _timings(tokenise_s: float, results: Sequence[Result]) -> CallTimings:
    slowest = max(results, key=lambda result: result.timings.queue_s + result.timings.device_s)
    return CallTimings(tokenise_s, slowest.timings.queue_s, slowest.timings.device_s)
