"""
What the gateway holds: texts in, answers out.

Checks what can be checked on the host before anything is queued, tokenises, submits, and reads what
the model made. Knows no HTTP and no tensor; the engine behind it may be in this process or not.
"""

import asyncio
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, cast

import numpy as np

from inference.asks import (
    Answer,
    CallTimings,
    Classify,
    Embed,
    Fill,
    FillMask,
    Inputs,
    Item,
    Relevance,
    Rerank,
    Scores,
    Similarity,
    Sparse,
    SparseVector,
    Tag,
    Terms,
    ZeroShot,
)
from inference.config import Limits
from inference.errors import DeadlineExceeded, DeviceLost, InvalidRequest, Overloaded, Unavailable
from inference.intake import Piece, Served, check_answer, check_items, check_tokens
from inference.labels import scores, sigmoid
from inference.model import ServedModel
from inference.reading import cosines, fills, fits, shorten, sparse
from inference.repository import Repository
from inference.request import Call, Output, Request, Result, Row
from inference.scheduler import Work
from inference.spans import Span, read_spans
from inference.task import Ability, entailment
from inference.tokenizer import Token, Truncation
from inference.turns import Turns, is_heavy

if TYPE_CHECKING:
    from inference.batcher import BatcherStatistics
    from inference.engine import Engine
    from inference.remote import RemoteEngine

_ON_THE_LOOP_TEXTS: Final = 64
_ON_THE_LOOP_CHARACTERS: Final = 2000  # shorter texts are tokenised at once: a thread's round trip costs more
_MOST_FILLS: Final = 1000
_MOST_PROPOSALS: Final = 10_000  # of all masks of a call: each is a sequence of its own in the answer
_LONGEST_TEMPLATE: Final = 1000  # characters

Encode = Callable[[Inputs, Truncation], list[Piece]]
Check = Callable[[list[Piece], Inputs], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Run(Generic[Piece]):
    """What the engine made of a call's inputs, and what they were as tokens."""

    pieces: Sequence[Piece]
    rows: Sequence[Row]
    tokens: int
    timings: CallTimings


class Client:
    """The way from a dialect to the engine. Every ask raises InferenceError."""

    def __init__(
        self,
        engine: "Engine | RemoteEngine",
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
        self._started = False
        self._closing = False
        self._known: Mapping[str, ServedModel] = {}  # what is served since the engine began, or began again
        self.turns = Turns(clock)
        self._repository = Repository(cast("Engine", engine))  # what only that can is asked of no other

    @property
    def repository(self) -> Repository:
        """How what is served changes."""
        self._all()
        return self._repository

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """What is served, by name; empty while starting."""
        return {name: served.model for name, served in self._all().items()}

    @property
    def ready(self) -> bool:
        """Whether there is anything to call: an engine in another process may start again."""
        return bool(self._all())

    @property
    def healthy(self) -> bool:
        """Whether every device thread is alive and moving; true while starting."""
        return self._engine.healthy

    async def start(self) -> None:
        """Load every model and begin to serve; raises CannotServe."""
        await asyncio.to_thread(self._engine.load)
        self._engine.start()
        self._started = True

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
        await asyncio.to_thread(self.turns.close)

    def statistics(self) -> "BatcherStatistics | None":
        """Take a snapshot of the engine; None while starting."""
        return self._engine.statistics()

    def model_for(self, name: str | None, ability: Ability | None, among: Container[str] | None = None) -> ServedModel:
        """
        Return the model that is meant, or the only one that can do this (None: anything); raises InvalidRequest.

        Of other models than those `among` (None: all) nothing is said.
        """
        return self._find(name, ability, among).model

    def tokenize(self, name: str | None, texts: Sequence[str], *, special: bool = True) -> list[list[Token]]:
        """Return the tokens of texts, to look at."""
        return self._find(name, None).tokenizer.tokens(texts, special=special)

    def decode(self, name: str | None, ids: Sequence[Sequence[int]], *, skip_special: bool = True) -> list[str]:
        """Return the texts of token ids."""
        tokenizer = self._find(name, None).tokenizer
        return [tokenizer.decode(each, skip_special=skip_special) for each in ids]

    async def embed(self, ask: Embed) -> Answer[Row]:
        """Embed every input: [dimensions] float32 each, or [tokens, hidden] where token vectors are asked for."""
        served = self._find(ask.terms.model, "embed")
        _check_dimensions(ask, served.model)
        inputs = self._checked(ask.inputs)
        prompted = served.prompted(inputs, ask.prompt_name, ask.input_type)
        ran = await self._run(served, prompted, ask.terms, ask.output, served.encode)
        scaled = ask.output == "vector" and served.model.normalised
        return _answer(served, ran, [shorten(row, ask.dimensions, scaled=scaled) for row in ran.rows])

    async def similarity(self, ask: Similarity) -> Answer[float]:
        """Return the cosine of each text's embedding with the source's."""
        served = self._find(ask.terms.model, "similarity")
        if not ask.source:
            raise InvalidRequest("must not be empty", "source_sentence")
        sentences = self._checked(ask.sentences)
        both = Inputs([ask.source, *sentences.items], sentences.field, lead="source_sentence")
        ran = await self._run(served, served.prompted(both, ask.prompt_name, None), ask.terms, "vector", served.encode)
        return _answer(served, ran, cosines(ran.rows))

    async def sparse(self, ask: Sparse) -> Answer[SparseVector]:
        """Return the term weights of each text."""
        served = self._find(ask.terms.model, "sparse")
        ran = await self._run(served, self._checked(ask.inputs), ask.terms, "term weights", served.encode)
        return _answer(served, ran, [sparse(row) for row in ran.rows])

    async def rerank(self, ask: Rerank) -> Answer[Relevance]:
        """Return how relevant the second text of each pair is to the first."""
        served = self._find(ask.terms.model, "rerank")
        ran = await self._run(served, self._checked(ask.pairs), ask.terms, "logits", served.encode)
        logits = np.array([row[0] for row in ran.rows], np.float32)
        return _answer(served, ran, list(map(Relevance, logits.tolist(), sigmoid(logits).tolist())))

    async def classify(self, ask: Classify) -> Answer[Scores]:
        """Return every label's score for each text or pair."""
        served = self._find(ask.terms.model, "classify")
        model = served.model
        ran = await self._run(served, self._checked(ask.inputs), ask.terms, "logits", served.encode)
        return _answer(served, ran, [Scores(model.labels, row, scores(row, model.problem_type)) for row in ran.rows])

    async def tag(self, ask: Tag) -> Answer[list[Span]]:
        """Return the labelled spans of each text."""
        served = self._find(ask.terms.model, "token-classify")
        ran = await self._run(served, self._texts(ask.inputs), ask.terms, "token logits", served.mark)
        labels, joined = served.model.labels, served.tokenizer.joined
        spans = [
            read_spans(row, piece, labels, ask.aggregation, joined, ignored=ask.ignored)
            for row, piece in zip(ran.rows, ran.pieces, strict=True)
        ]
        return _answer(served, ran, spans)

    async def token_logits(self, ask: Tag) -> Answer[Row]:
        """Return a tagger's own numbers: [tokens, labels] for each text, special tokens included."""
        served = self._find(ask.terms.model, "token-classify")
        ran = await self._run(served, self._texts(ask.inputs), ask.terms, "token logits", served.mark)
        return _answer(served, ran, ran.rows)

    async def zero_shot(self, ask: ZeroShot) -> Answer[Row]:
        """Return how well each of the caller's labels fits each text: [labels] each, in the caller's order."""
        served = self._find(ask.terms.model, "zero-shot")
        texts, labels = self._texts(ask.inputs), ask.labels
        if not labels:
            raise InvalidRequest("must not be empty", "candidate_labels")
        if len(texts.items) * len(labels) > self._limits.max_items:
            most = self._limits.max_items
            raise InvalidRequest(f"makes more than {most} pairs of a text and a label", "candidate_labels")
        if ask.template.count("{}") != 1 or len(ask.template) > _LONGEST_TEMPLATE:
            wanted = f"must have one {{}} where the label goes, and at most {_LONGEST_TEMPLATE} characters"
            raise InvalidRequest(wanted, "hypothesis_template")
        pairs = [(str(text), ask.template.replace("{}", label)) for text in texts.items for label in labels]
        inputs = Inputs(pairs, texts.field, texts.single, each=len(labels))
        ran = await self._run(served, inputs, ask.terms, "logits", served.encode)
        logits = np.stack(ran.rows).reshape(len(texts.items), len(labels), -1)
        entails = entailment(served.model.labels)
        return _answer(served, ran, [fits(each, entails, multi_label=ask.multi_label) for each in logits])

    async def fill_mask(self, ask: FillMask) -> Answer[list[list[Fill]]]:
        """Return the best proposals for each mask of each text."""
        served = self._find(ask.terms.model, "fill-mask")
        if not 1 <= ask.top_k <= _MOST_FILLS:
            raise InvalidRequest(f"must be between 1 and {_MOST_FILLS}", "top_k")
        if len(ask.targets) > _MOST_FILLS:
            raise InvalidRequest(f"has more than {_MOST_FILLS} words", "targets")
        targets = [served.target(target, index) for index, target in enumerate(ask.targets)]
        few = partial(served.check_masks, most=_MOST_PROPOSALS // ask.top_k)
        ran = await self._run(served, self._texts(ask.inputs), ask.terms, "mask logits", served.encode, check=few)
        return _answer(
            served,
            ran,
            [
                fills(served.tokenizer, piece.ids, row, ask.top_k, targets)
                for row, piece in zip(ran.rows, ran.pieces, strict=True)
            ],
        )

    def _all(self) -> Mapping[str, Served]:
        """What is served, with tokenizers: made again whenever an engine in another process has begun again."""
        models = self._engine.models
        if self._started and models is not self._known:
            self._repository.open()
            self._known = models
        return self._repository.served

    def _find(self, name: str | None, ability: Ability | None, among: Container[str] | None = None) -> Served:
        if not self.healthy:
            raise DeviceLost("the device answers no more")
        self._all()
        if self._closing:
            raise Unavailable("draining")
        return self._repository.meant(name, ability, among)

    def _checked(self, inputs: Inputs) -> Inputs:
        check_items(inputs, self._limits)
        return inputs

    def _texts(self, inputs: Inputs) -> Inputs:
        """Refuse pairs and token ids where the answer is about a text's own characters."""
        for index, item in enumerate(self._checked(inputs).items):
            if not isinstance(item, str):
                raise InvalidRequest("must be one text", inputs.name(index))
        return inputs

    async def _run(
        self,
        served: Served,
        inputs: Inputs,
        terms: Terms,
        output: Output,
        encode: Encode[Piece],
        *,
        check: Check[Piece] | None = None,
    ) -> _Run[Piece]:
        """Tokenise, submit and wait: all inputs of a call, or none."""
        started = self._clock()
        deadline = started + terms.timeout_s
        with (
            served.use,
            self.turns.here(terms.caller, len(inputs.items), inputs.size),
        ):  # if it is replaced, it still answers
            self._first_gate(served, inputs, terms, deadline)
            pieces = await self._tokenise(inputs, terms, encode)
            tokens = check_tokens(pieces, inputs, served.model, self._limits.max_waiting_tokens)
            if check is not None:
                check(pieces, inputs)
            check_answer(served, output, pieces, inputs, self._limits.max_answer_bytes)
            requests = [Request(served.model.key, piece.ids, piece.types, output) for piece in pieces]
            tokenise_s = self._clock() - started
            results = await self._engine.submit(Call(requests, deadline, terms.caller, terms.priority))
        return _Run(pieces, [result.row for result in results], tokens, _timings(tokenise_s, results))

    def _first_gate(self, served: Served, inputs: Inputs, terms: Terms, deadline: float) -> None:
        """Refuse by an estimate from the length of the text, before tokenising costs anything."""
        least, likely = served.least(inputs), served.likely(inputs)
        work = Work(served.model.key, least, deadline, terms.caller, terms.priority, likely)
        refused = self._engine.refusal(work)
        if refused is not None:
            raise Overloaded(refused.reason, refused.retry_after_s)

    async def _tokenise(self, inputs: Inputs, terms: Terms, encode: Encode[Piece]) -> list[Piece]:
        truncation = "end" if terms.truncation == "none" and self._auto_truncate else terms.truncation
        count, size = len(inputs.items), inputs.size
        if count <= _ON_THE_LOOP_TEXTS and size < _ON_THE_LOOP_CHARACTERS:
            return encode(inputs, truncation)
        try:
            async with asyncio.timeout(terms.timeout_s):
                pieces: list[Piece] = []
                for part in inputs.parts() if is_heavy(count, size) else [inputs]:
                    made = partial(encode, part, truncation)
                    pieces += await self.turns.work(terms.caller, count, size, made, goes_on=bool(pieces))
                return pieces
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the text was tokenised") from None


def _answer(served: Served, ran: _Run[Piece], items: Sequence[Item]) -> Answer[Item]:
    return Answer(served.model.name, items, ran.tokens, ran.timings)


def _check_dimensions(ask: Embed, model: ServedModel) -> None:
    if ask.dimensions is not None and not 1 <= ask.dimensions <= model.hidden_size:
        raise InvalidRequest(f"must be between 1 and {model.hidden_size} for {model.name}", "dimensions")


def _timings(tokenise_s: float, results: Sequence[Result]) -> CallTimings:
    slowest = max(results, key=lambda result: result.timings.queue_s + result.timings.device_s)
    timings = slowest.timings
    return CallTimings(tokenise_s, timings.queue_s, timings.device_s, timings.batch)
