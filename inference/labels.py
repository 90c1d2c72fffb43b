"""What logits mean: probabilities, and the best of them. On the host, in numpy."""

from collections.abc import Sequence

import numpy as np

from inference.request import Row
from inference.task import ProblemType


def sigmoid(logits: Row) -> Row:
    """Return 1 / (1 + exp(-x)) for each, without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def softmax(logits: Row) -> Row:
    """Return probabilities along the last axis; the largest logit is subtracted first, so nothing overflows."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    shares: Row = (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
    return shares


def scores(logits: Row, problem: ProblemType) -> Row:
    """Return what a classifier's logits say: [labels], as its problem type reads them."""
    match problem:
        case "regression":
            return logits
        case "multi_label_classification":
            return sigmoid(logits)
        case "single_label_classification":
            return softmax(logits)


def ranked(values: Sequence[float] | Row, most: int | None = None) -> list[int]:
    """Return the indices of the highest values, best first; equals keep their order."""
    order = np.argsort(-np.asarray(values, np.float32), kind="stable")
    return [int(index) for index in order[:most]]
