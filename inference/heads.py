"""
What a task makes of hidden states, for sequences laid end to end.

A model's own head (a classifier, a language model's) is run by the model itself (`own_head.py`). How much of a
sequence it has to see is found out by comparing numbers at load.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from inference.checkpoint import Pooling
from inference.device import to_device
from inference.errors import RuntimeFailed
from inference.layout import Layout, Run, Runs
from inference.own_head import OwnHead
from inference.request import Output, Request
from inference.tokenizer import Vocabulary

Scores = Iterator[tuple[slice, torch.Tensor]]
"""Of some tokens, for one slice of the vocabulary after another: which terms, and [tokens, terms]."""

Reach = Literal["first", "last", "whole"]
"""What a head reads of a sequence: its first token, its last, or all of them."""

_PORTION: Final = 512  # tokens that are scored together: states and scores of one slice of terms fit a core's cache
_TERMS: Final = 512  # of the vocabulary in one slice


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Numbers on the device, [rows, width] float32: one row a sequence, or `counts[i]` rows for sequence i."""

    values: torch.Tensor
    counts: Sequence[int] | None = None


class Head(Protocol):
    """Hidden states [tokens, hidden], and whose they are, to rows."""

    def __call__(self, hidden: torch.Tensor, layout: Layout, requests: Sequence[Request]) -> Rows:
        """Return the rows in the order of the requests."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """
    One vector a sequence, through the layers behind the pooling; `normalise` scales it to L2 length 1.

    Sums are taken in float32.
    """

    pooling: Pooling
    normalise: bool
    dense: Callable[[torch.Tensor], torch.Tensor] = torch.nn.Identity()  # noqa: RUF009 - has no state

    def __call__(self, hidden: torch.Tensor, layout: Layout, requests: Sequence[Request]) -> Rows:
        """Return [sequences, width]: of the hidden states, or of the last layer."""
        pooled = self.dense(_pooled(hidden, layout, self.pooling))
        return Rows(F.normalize(pooled, dim=1) if self.normalise else pooled)


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """The hidden states themselves, one a token."""

    def __call__(self, hidden: torch.Tensor, layout: Layout, requests: Sequence[Request]) -> Rows:
        """Return [tokens, hidden]."""
        return Rows(hidden.float(), [len(request.tokens) for request in requests])


@dataclass(frozen=True, slots=True)
class SequenceLogits:
    """One row of logits a sequence, from as much of it as the head reads."""

    own: OwnHead
    reach: Reach

    def __call__(self, hidden: torch.Tensor, layout: Layout, requests: Sequence[Request]) -> Rows:
        """Return [sequences, labels]."""
        if self.reach == "whole":
            return Rows(torch.cat([self.own(_blocks(hidden, run)) for run in layout.runs]))
        return Rows(self.own(_edges(hidden, layout, self.reach)[:, None]))


@dataclass(frozen=True, slots=True)
class Judgement:
    """A language model as a judge: how much likelier it says yes than no after the last token."""

    own: OwnHead
    yes: int
    no: int

    def __call__(self, hidden: torch.Tensor, layout: Layout, requests: Sequence[Request]) -> Rows:
        """Return [sequences, 1]: the difference of both logits, whose sigmoid is the probability of a yes."""
        logits = self.own(_edges(hidden, layout, "last")[:, None])[:, 0]
        return Rows(logits[:, [self.yes]] - logits[:, [self.no]])


@dataclass(frozen=True, slots=True)
class TokenLogits:
    """One row of logits a token."""

    own: OwnHead

    def __call__(self, hidden: torch.Tensor, layout: Layout, requests: Sequence[Request]) -> Rows:
        """Return [tokens, labels]."""
        return Rows(self.own.each(hidden), [len(request.tokens) for request in requests])


@dataclass(frozen=True, slots=True)
class MaskLogits:
    """What stands best at each mask: one row of logits over the vocabulary a mask."""

    own: OwnHead
    mask: int

    def __call__(self, hidden: torch.Tensor, layout: Layout, requests: Sequence[Request]) -> Rows:
        """Return [masks, vocabulary]."""
        masks = [request.tokens == self.mask for request in requests]
        rows = hidden.index_select(0, to_device(np.flatnonzero(np.concatenate(masks)), hidden.device))
        return Rows(self.own.each(rows), [int(mask.sum()) for mask in masks])


@dataclass(frozen=True, slots=True)
class TermWeights:
    """SPLADE (Formal et al. 2021): for each term of the vocabulary the largest log(1 + relu(logit)) of any token."""

    scores: Callable[[torch.Tensor], Scores]
    terms: int

    def __call__(self, hidden: torch.Tensor, layout: Layout, requests: Sequence[Request]) -> Rows:
        """Return [sequences, vocabulary]."""
        return Rows(torch.cat([self._weights(hidden, portion) for portion in _portions(layout.runs)]))

    def _weights(self, hidden: torch.Tensor, portion: Runs) -> torch.Tensor:
        start, end = portion[0].start, portion[-1].rows.stop
        largest = hidden.new_empty(sum(run.count for run in portion), self.terms)
        for terms, logits in self.scores(hidden[start:end]):
            row = 0
            for run in portion:
                block = torch.unflatten(logits[run.start - start : run.rows.stop - start], 0, (run.count, run.length))
                torch.amax(block, 1, out=largest[row : row + run.count, terms])
                row += run.count
        return torch.log1p(largest.float().relu_())


@dataclass(frozen=True, slots=True)
class AllTerms:
    """Scores of the whole vocabulary at once, as the model makes them."""

    own: OwnHead

    def __call__(self, states: torch.Tensor) -> Scores:
        """Yield the logits [tokens, vocabulary] of hidden states [tokens, hidden]."""
        yield slice(None), self.own.each(states).to(states.dtype)


@dataclass(frozen=True, slots=True)
class SlicedTerms:
    """The same, slice after slice: all scores of a token are 120 kB, which no cache would keep."""

    own: OwnHead
    last: torch.nn.Linear

    def __call__(self, states: torch.Tensor) -> Scores:
        """Yield the logits [tokens, terms] of hidden states [tokens, hidden]."""
        read = self.own.before(self.last, states[:, None])[:, 0]
        for first in range(0, self.last.out_features, _TERMS):
            terms = slice(first, first + _TERMS)
            bias = None if self.last.bias is None else self.last.bias[terms]
            yield terms, F.linear(read, self.last.weight[terms], bias)


def term_weights(own: OwnHead, hidden: Sequence[torch.Tensor], logits: Sequence[torch.Tensor]) -> TermWeights:
    """Return the head that slices the vocabulary: on a CPU, where the model's output layer has the last word."""
    last = own.output_layer()
    terms = logits[0].shape[1]
    if last is None or last.out_features != terms or hidden[0].device.type != "cpu":
        return TermWeights(AllTerms(own), terms)
    sliced = SlicedTerms(own, last)
    for states, expected in zip(hidden, logits, strict=True):
        if not _close(torch.cat([scores for _, scores in sliced(states)], 1).float(), expected):
            return TermWeights(AllTerms(own), terms)
    return TermWeights(sliced, terms)


def own_head(
    own: OwnHead,
    output: Output,
    vocabulary: Vocabulary,
    hidden: Sequence[torch.Tensor],
    logits: Sequence[torch.Tensor],
) -> Head:
    """
    Return the head of a model's own that gives this output; RuntimeFailed: it cannot be run apart from the model.

    Compared with samples: hidden states [length, hidden] each, and the logits that the whole model makes of the same
    input: [labels], or [length, labels].
    """
    if output == "logits" and logits[0].ndim == 1:
        return SequenceLogits(own, _find_reach(own, hidden, logits))
    if not all(_close(own.each(states), expected) for states, expected in zip(hidden, logits, strict=True)):
        raise RuntimeFailed("its logits need more than hidden states")
    match output:
        case "logits":
            return Judgement(own, _known(vocabulary.yes, "yes"), _known(vocabulary.no, "no"))
        case "mask logits":
            return MaskLogits(own, _known(vocabulary.mask, "mask"))
        case "term weights":
            return term_weights(own, hidden, logits)
        case _:
            return TokenLogits(own)


def _known(token: int | None, word: str) -> int:
    if token is None:
        raise RuntimeFailed(f"its tokenizer has no token for {word!r}")
    return token


def _find_reach(own: OwnHead, hidden: Sequence[torch.Tensor], logits: Sequence[torch.Tensor]) -> Reach:
    """Return the least of a sequence that gives the expected logits."""
    seen: Mapping[Reach, Callable[[torch.Tensor], torch.Tensor]] = {
        "first": lambda states: states[:1],
        "last": lambda states: states[-1:],
        "whole": lambda states: states,
    }
    for reach, part in seen.items():
        if all(_close(own(part(states)[None])[0], expected) for states, expected in zip(hidden, logits, strict=True)):
            return reach
    raise RuntimeFailed("its logits need more than hidden states")


def _close(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the same sums came out, but for their order."""
    tolerance = 1e-5 if expected.dtype == torch.float32 else 2e-2
    return logits.shape == expected.shape and bool(
        (logits - expected.float()).abs().max() <= tolerance * expected.abs().max()
    )


def _pooled(hidden: torch.Tensor, layout: Layout, pooling: Pooling) -> torch.Tensor:
    """Make [sequences, hidden] float32 of [tokens, hidden]: on a GPU in one kernel, whatever the lengths."""
    if layout.bounds is None:
        return torch.cat([_pool(hidden, run, pooling) for run in layout.runs])
    match pooling:
        case "cls":
            return _edges(hidden, layout, "first").float()
        case "last":
            return _edges(hidden, layout, "last").float()
        case "mean" | "max":
            every = torch.arange(len(hidden), dtype=torch.int32, device=hidden.device)
            return F.embedding_bag(every, hidden.float(), layout.bounds[:-1], mode=pooling)


def _pool(hidden: torch.Tensor, run: Run, pooling: Pooling) -> torch.Tensor:
    block = _blocks(hidden, run).float()
    match pooling:
        case "mean":
            return block.mean(1)
        case "cls":
            return block[:, 0]
        case "max":
            return block.amax(1)
        case "last":
            return block[:, -1]


def _blocks(hidden: torch.Tensor, run: Run) -> torch.Tensor:
    """Cut [tokens, hidden] to this run: [sequences, length, hidden], a view."""
    return torch.unflatten(hidden[run.rows], 0, (run.count, run.length))


def _portions(runs: Runs) -> Iterator[Runs]:
    """Cut a layout into parts of about `_PORTION` tokens, at the ends of sequences."""
    portion: list[Run] = []
    for run in itertools.chain.from_iterable(map(_cut, runs)):
        if portion and run.rows.stop - portion[0].start > _PORTION:
            yield tuple(portion)
            portion = []
        portion.append(run)
    yield tuple(portion)


def _cut(run: Run) -> Iterator[Run]:
    """Cut a run that is longer than a portion."""
    most = max(1, _PORTION // run.length)
    for first in range(0, run.count, most):
        yield Run(run.start + first * run.length, min(most, run.count - first), run.length)


def _edges(hidden: torch.Tensor, layout: Layout, reach: Literal["first", "last"]) -> torch.Tensor:
    """Return the first or last token's state of each sequence: [sequences, hidden]."""
    if layout.bounds is not None:
        at = layout.bounds[:-1] if reach == "first" else layout.bounds[1:] - 1
        return hidden.index_select(0, at)
    return torch.cat([hidden[_edge(run, reach)] for run in layout.runs])


def _edge(run: Run, reach: Literal["first", "last"]) -> slice:
    """Return the rows of the first or last tokens of a run's sequences."""
    start = run.start if reach == "first" else run.start + run.length - 1
    return slice(start, run.start + run.count * run.length, run.length)
