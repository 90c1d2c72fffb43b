"""What rows mean to a caller: vectors cut and scaled, labels that fit, words for masks. On the host, in numpy."""

from collections.abc import Sequence

import numpy as np

from inference.asks import Fill, SparseVector
from inference.labels import ranked, sigmoid, softmax
from inference.request import Row, Tokens
from inference.tokenizer import TextTokenizer


def shorten(row: Row, dimensions: int | None, *, scaled: bool) -> Row:
    """Matryoshka embedding (Kusupati et al. 2022): the first dimensions, scaled to length 1 again."""
    if dimensions is None or dimensions == row.shape[-1]:
        return row
    head = row[..., :dimensions]
    length = float(np.linalg.norm(head)) if scaled else 1.0
    return head / np.float32(length or 1.0)


def cosines(rows: Sequence[Row]) -> list[float]:
    """Return the cosine of each row with the first one, which is left out."""
    source, *others = [row / max(float(np.linalg.norm(row)), 1e-12) for row in rows]
    return [float(source @ other) for other in others]


def sparse(row: Row) -> SparseVector:
    """Return the terms of a row [vocabulary] whose weight is above 0."""
    indices = np.flatnonzero(row > 0).astype(np.int32)
    return SparseVector(indices, row[indices])


def fits(logits: Row, entails: int | None, *, multi_label: bool) -> Row:
    """
    Read how well labels fit a text, [labels]: from natural-language-inference logits [labels, classes] or a
    reranker's [labels, 1].

    One label of all: softmax over the labels. Each by itself: how much more it follows than contradicts.
    """
    alone = multi_label or len(logits) == 1
    if entails is None:
        return sigmoid(logits[:, 0]) if alone else softmax(logits[:, 0])
    if alone:
        contradicts = -1 if entails == 0 else 0
        return softmax(logits[:, [contradicts, entails]])[:, 1]
    return softmax(logits[:, entails])


def fills(tokenizer: TextTokenizer, ids: Tokens, logits: Row, top_k: int, targets: Sequence[int]) -> list[list[Fill]]:
    """Return the best proposals for each mask of a text: logits [masks, vocabulary], scores as a share of all words."""
    places = np.flatnonzero(ids == tokenizer.mask_id)
    only = len(places) == 1
    proposals = []
    for place, row in zip(places, logits, strict=True):
        best = _best(softmax(row), top_k, targets)
        proposals.append([_fill(tokenizer, ids, int(place), word, share, only=only) for word, share in best])
    return proposals


def _best(shares: Row, top_k: int, targets: Sequence[int]) -> list[tuple[int, float]]:
    words = np.array(sorted(set(targets))) if targets else np.arange(len(shares))
    return [(int(words[index]), float(shares[words[index]])) for index in ranked(shares[words], top_k)]


def _fill(tokenizer: TextTokenizer, ids: Tokens, place: int, word: int, share: float, *, only: bool) -> Fill:
    filled = ids.copy()
    filled[place] = word
    sequence = tokenizer.decode(filled.tolist(), skip_special=only)  # where there are more masks, they are shown
    return Fill(word, tokenizer.decode([word]), share, sequence)
