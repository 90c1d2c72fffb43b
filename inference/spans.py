"""
Token labels to spans of the text, as Transformers' token-classification pipeline aggregates them.

Strategies: `none` (a span a token), `simple` (neighbours of one entity), `first`, `average`, `max` (a word has one
label: its first token's, the best of the mean, or its surest token's; then neighbouring words are joined).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from inference.labels import softmax
from inference.request import Row, Tokens

Aggregation = Literal["none", "simple", "first", "average", "max"]
Joined = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True, eq=False)
class Marked:
    """A text as tokens that know where they came from."""

    ids: Tokens
    text: str
    tokens: Sequence[str]  # as the vocabulary has them; an unknown one as the text has it
    offsets: Sequence[tuple[int, int]]  # characters, end excluded
    special: Sequence[int]  # 1: put there by the tokenizer
    subword: Sequence[bool]  # it goes on where the token before it ended
    types: Tokens | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text with its label; `start` and `end` in characters, `index` of its token for `none`."""

    label: str
    score: float
    word: str
    start: int
    end: int
    index: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """A token or a word on its way to a span."""

    label: str
    score: float
    word: str
    start: int
    end: int
    index: int


def read_spans(
    logits: Row,
    marked: Marked,
    labels: Sequence[str],
    strategy: Aggregation,
    joined: Joined,
    *,
    ignored: Sequence[str] = ("O",),
) -> list[Span]:
    """Read logits [tokens, labels] of a text; what is ignored is left out. `joined` writes tokens as text again."""
    probabilities, left_out = softmax(logits), frozenset(ignored)
    places = [place for place, special in enumerate(marked.special) if not special]
    by_token = strategy in ("none", "simple")
    words = [[place] for place in places] if by_token else _words(places, marked.subword)
    written = _only if by_token else joined
    pieces = [_piece(marked, word, _scores(probabilities[word], strategy), labels, written) for word in words]
    if strategy == "none":
        spans = [Span(p.label, p.score, p.word, p.start, p.end, p.index) for p in pieces]
    else:
        spans = [_span(group, joined) for group in _entities(pieces)]
    return [span for span in spans if span.label not in left_out]


def subwords(
    text: str, tokens: Sequence[str], offsets: Sequence[tuple[int, int]], unknown: str | None, *, prefixed: bool
) -> list[bool]:
    """
    Say which tokens continue a word.

    Where the vocabulary marks continuations (`prefixed`), such a token is longer than its text; elsewhere a token
    continues when there is no space before it. An unknown token always starts a word.
    """
    if prefixed:
        return [
            token != unknown and len(token) != end - start for token, (start, end) in zip(tokens, offsets, strict=True)
        ]
    return [
        token != unknown and start > 0 and " " not in text[start - 1 : start + 1]
        for token, (start, _) in zip(tokens, offsets, strict=True)
    ]


def _words(places: Iterable[int], subword: Sequence[bool]) -> list[list[int]]:
    words: list[list[int]] = []
    for place in places:
        if words and subword[place]:
            words[-1].append(place)
        else:
            words.append([place])
    return words


def _piece(marked: Marked, word: list[int], scores: Row, labels: Sequence[str], written: Joined) -> _Piece:
    best = int(scores.argmax())
    start, end = marked.offsets[word[0]][0], marked.offsets[word[-1]][1]
    text = written([marked.tokens[place] for place in word])
    return _Piece(labels[best], float(scores[best]), text, start, end, word[0])


def _only(tokens: Sequence[str]) -> str:
    return tokens[0]


def _scores(probabilities: Row, strategy: Aggregation) -> Row:
    """Return the label scores of a word from those of its tokens: [tokens, labels] -> [labels]."""
    match strategy:
        case "average":
            return np.asarray(probabilities.mean(0))
        case "max":
            return np.asarray(probabilities[probabilities.max(1).argmax()])
        case _:
            return np.asarray(probabilities[0])


def _entities(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Group neighbours of one entity; `B-` begins a new one."""
    groups: list[list[_Piece]] = []
    for piece in pieces:
        if groups and _tag(piece.label) == _tag(groups[-1][-1].label) and not piece.label.startswith("B-"):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _tag(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _span(group: Sequence[_Piece], joined: Joined) -> Span:
    score = float(np.mean([piece.score for piece in group]))
    label = group[0].label.split("-", 1)[-1]
    return Span(label, score, joined([piece.word for piece in group]), group[0].start, group[-1].end)
