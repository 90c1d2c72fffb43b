"""
What a batch costs in seconds: learned from the batches that ran.

    seconds = base + a * tokens + b * sequences + c * sum of squared lengths,  all coefficients >= 0

Least squares on relative errors with exponential forgetting. Four unknowns, so the normal equations
are solved by elimination in plain Python, some 20 us a batch; a coefficient that comes out negative is
taken for zero and the rest solved again (active sets, after Lawson and Hanson 1974).
"""

import math
from collections import deque
from dataclasses import dataclass

from inference.request import Shape

_FEATURES = 4
_SCALES = (1.0, 1e3, 1e1, 1e5)  # keeps the normal equations well conditioned
_FORGETTING = 0.99  # a batch counts half after 69 others
_GUESSED = (Shape(1, 1, 1), Shape(1000, 1, 10**6), Shape(1000, 1000, 1000))
_GUESS_WEIGHT = 1e-4  # of an observation: decides only what no batch has told yet
_ANCHOR = 0.02  # part of what warm-up taught that stays
_RIDGE = 1e-9  # keeps the equations solvable while batches all look alike
_TRUSTED_AFTER = 8  # observations before outliers are clipped
_ERRORS_KEPT = 256
_OUTLIER = 4.0  # an observation counts for at most so many times its prediction


@dataclass(frozen=True, slots=True)
class Curve:
    """The fitted cost, in seconds: of any batch, and for each token, sequence and squared length."""

    base_s: float
    token_s: float
    sequence_s: float
    square_s: float


_GUESS = Curve(base_s=1e-3, token_s=1e-5, sequence_s=0.0, square_s=0.0)


class CostModel:
    """Predicts the seconds a batch takes; `observe` refines it."""

    def __init__(self) -> None:
        """Start with a guess: warm-up replaces it before the first call."""
        self._normal = [[0.0] * _FEATURES for _ in range(_FEATURES)]
        self._moment = [0.0] * _FEATURES
        self._anchor = [[0.0] * _FEATURES for _ in range(_FEATURES)]
        self._anchor_moment = [0.0] * _FEATURES
        self.curve = _GUESS
        self._observed = 0
        self._errors: deque[float] = deque(maxlen=_ERRORS_KEPT)

    def seconds(self, shape: Shape) -> float:
        """Predict the device seconds of one batch of this shape."""
        curve = self.curve
        return (
            curve.base_s
            + curve.token_s * shape.tokens
            + curve.sequence_s * shape.sequences
            + curve.square_s * shape.squares
        )

    def backlog_s(self, shape: Shape, max_tokens: float, max_s: float) -> float:
        """Predict the device seconds of so much work when it runs in batches of so many tokens or seconds."""
        if shape.sequences == 0:
            return 0.0
        work_s = self.seconds(shape) - self.curve.base_s
        return work_s + math.ceil(self._batches(shape, max_tokens, max_s)) * self.curve.base_s

    def share_s(self, shape: Shape, max_tokens: float, max_s: float) -> float:
        """Predict the device seconds of so much work as a part of endless work like it, in such batches."""
        work_s = self.seconds(shape) - self.curve.base_s
        return work_s + self._batches(shape, max_tokens, max_s) * self.curve.base_s

    def errors(self) -> tuple[float, float]:
        """Return the median and the 95th percentile of the last predictions' relative errors."""
        ordered = sorted(self._errors) or [0.0]
        return ordered[len(ordered) // 2], ordered[len(ordered) * 19 // 20]

    def observe(self, shape: Shape, seconds: float) -> None:
        """Learn from a batch that ran."""
        self._errors.append(abs(seconds / max(self.seconds(shape), 1e-9) - 1.0))
        if self._observed == 0:
            self._scale_guess(seconds / self.seconds(shape))
        if self._observed >= _TRUSTED_AFTER:
            seconds = min(seconds, _OUTLIER * self.seconds(shape))
        self._observed += 1
        self._count(shape, seconds, 1.0)
        self._solve()

    def settle(self) -> None:
        """End warm-up: what was learned so far is never forgotten altogether, however one-sided the calls are."""
        self._anchor = [[_ANCHOR * value for value in row] for row in self._normal]
        self._anchor_moment = [_ANCHOR * value for value in self._moment]

    def _batches(self, shape: Shape, max_tokens: float, max_s: float) -> float:
        work_s = self.seconds(shape) - self.curve.base_s
        batches = max(shape.tokens / max_tokens, work_s / max(max_s - self.curve.base_s, 1e-9))
        return min(batches, shape.sequences)

    def _scale_guess(self, factor: float) -> None:
        """Keep the guess's proportions, at the speed of the first batch, for what no batch has told yet."""
        for shape in _GUESSED:
            self._count(shape, factor * self.seconds(shape), _GUESS_WEIGHT)

    def _count(self, shape: Shape, seconds: float, trust: float) -> None:
        x = _features(shape)
        weight = trust / max(seconds, 1e-6) ** 2  # squares of relative errors
        for i in range(_FEATURES):
            kept = (1 - _FORGETTING) * self._anchor_moment[i]
            self._moment[i] = _FORGETTING * self._moment[i] + kept + weight * seconds * x[i]
            for j in range(_FEATURES):
                kept = (1 - _FORGETTING) * self._anchor[i][j]
                self._normal[i][j] = _FORGETTING * self._normal[i][j] + kept + weight * x[i] * x[j]

    def _solve(self) -> None:
        active = list(range(_FEATURES))
        while active:
            solution = _eliminate(
                [[self._normal[i][j] for j in active] for i in active], [self._moment[i] for i in active]
            )
            worst = min(range(len(active)), key=solution.__getitem__)
            if solution[worst] >= 0.0:
                fitted = dict(zip(active, solution, strict=True))
                self.curve = Curve(*(fitted.get(i, 0.0) / scale for i, scale in enumerate(_SCALES)))
                return
            del active[worst]


def _features(shape: Shape) -> list[float]:
    values = (1.0, shape.tokens, shape.sequences, shape.squares)
    return [value / scale for value, scale in zip(values, _SCALES, strict=True)]


def _eliminate(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a small symmetric positive definite system (Gaussian elimination; changes its arguments)."""
    n = len(right)
    for i in range(n):
        matrix[i][i] += _RIDGE * matrix[i][i]
    for i in range(n):
        for k in range(i + 1, n):
            factor = matrix[k][i] / matrix[i][i]
            for j in range(i, n):
                matrix[k][j] -= factor * matrix[i][j]
            right[k] -= factor * right[i]
    for i in reversed(range(n)):
        right[i] = (right[i] - sum(matrix[i][j] * right[j] for j in range(i + 1, n))) / matrix[i][i]
    return right
