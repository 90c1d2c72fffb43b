"""
What a batch costs, in seconds and in bytes: learned from the batches that ran.

    cost = base + a * tokens + b * sequences + c * sum of squared lengths,  all coefficients >= 0

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


Coefficients = tuple[float, float, float, float]
"""Of any batch, and for each token, sequence and squared length."""

_GUESS_S: Coefficients = (1e-3, 1e-5, 0.0, 0.0)
_GUESS_BYTES: Coefficients = (1e3, 1e4, 0.0, 0.0)


class Fit:
    """One cost that grows with the shape of a batch."""

    def __init__(self, guess: Coefficients) -> None:
        """Start with a guess: its proportions count until batches tell more."""
        self._normal = [[0.0] * _FEATURES for _ in range(_FEATURES)]
        self._moment = [0.0] * _FEATURES
        self._anchor = [[0.0] * _FEATURES for _ in range(_FEATURES)]
        self._anchor_moment = [0.0] * _FEATURES
        self.coefficients = guess
        self._observed = 0
        self._errors: deque[float] = deque(maxlen=_ERRORS_KEPT)
        self._known: tuple[float, float] | None = None  # what `errors` returned last, until another comes

    @property
    def is_trusted(self) -> bool:
        """Whether enough batches were predicted for the errors to mean something."""
        return len(self._errors) >= _TRUSTED_AFTER

    def predict(self, shape: Shape) -> float:
        """Predict the cost of one batch of this shape."""
        base, token, sequence, square = self.coefficients
        return base + token * shape.tokens + sequence * shape.sequences + square * shape.squares

    def errors(self) -> tuple[float, float]:
        """Return the median and the 95th percentile of the last predictions' relative errors."""
        if self._known is None:
            ordered = sorted(self._errors) or [0.0]
            self._known = ordered[len(ordered) // 2], ordered[len(ordered) * 19 // 20]
        return self._known

    def observe(self, shape: Shape, cost: float) -> None:
        """Learn from a batch that ran."""
        self._errors.append(abs(cost / max(self.predict(shape), 1e-9) - 1.0))
        self._known = None
        if self._observed == 0:
            self._scale_guess(cost / self.predict(shape))
        if self._observed >= _TRUSTED_AFTER:
            cost = min(cost, _OUTLIER * self.predict(shape))
        self._observed += 1
        self._count(shape, cost, 1.0)
        self._solve()

    def settle(self) -> None:
        """End warm-up: what was learned so far is never forgotten altogether, however one-sided the calls are."""
        self._anchor = [[_ANCHOR * value for value in row] for row in self._normal]
        self._anchor_moment = [_ANCHOR * value for value in self._moment]

    def _scale_guess(self, factor: float) -> None:
        """Keep the guess's proportions, at the speed of the first batch, for what no batch has told yet."""
        for shape in _GUESSED:
            self._count(shape, factor * self.predict(shape), _GUESS_WEIGHT)

    def _count(self, shape: Shape, cost: float, trust: float) -> None:
        x = _features(shape)
        weight = trust / max(cost, 1e-6) ** 2  # squares of relative errors
        for i in range(_FEATURES):
            kept = (1 - _FORGETTING) * self._anchor_moment[i]
            self._moment[i] = _FORGETTING * self._moment[i] + kept + weight * cost * x[i]
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
                base, token, sequence, square = (fitted.get(i, 0.0) / scale for i, scale in enumerate(_SCALES))
                self.coefficients = (base, token, sequence, square)
                return
            del active[worst]


class CostModel:
    """Predicts the seconds a batch takes, and the bytes where a device tells them; `observe` refines it."""

    def __init__(self, curve: Curve | None = None) -> None:
        """Start with a curve that was measured before, or with a guess: warm-up replaces it before the first call."""
        self._time = Fit(_GUESS_S if curve is None else (curve.base_s, curve.token_s, curve.sequence_s, curve.square_s))
        self._memory = Fit(_GUESS_BYTES)

    @property
    def curve(self) -> Curve:
        """The fitted cost in seconds."""
        return Curve(*self._time.coefficients)

    @property
    def base_s(self) -> float:
        """What any batch costs, in seconds."""
        return self._time.coefficients[0]

    def seconds(self, shape: Shape) -> float:
        """Predict the device seconds of one batch of this shape."""
        return self._time.predict(shape)

    def backlog_s(self, shape: Shape, max_tokens: float, max_s: float, devices: int = 1) -> float:
        """Predict how long so much work takes in batches of so many tokens or seconds, on so many devices at once."""
        if shape.sequences == 0:
            return 0.0
        base_s = self.base_s
        work_s = self.seconds(shape) - base_s
        batches = math.ceil(self._batches(shape, work_s, max_tokens, max_s))
        return work_s / min(devices, batches) + math.ceil(batches / devices) * base_s

    def share_s(self, shape: Shape, max_tokens: float, max_s: float) -> float:
        """Predict the device seconds of so much work as a part of endless work like it, in such batches."""
        base_s = self.base_s
        work_s = self.seconds(shape) - base_s
        return work_s + self._batches(shape, work_s, max_tokens, max_s) * base_s

    def least_share(self) -> float:
        """Return the share of its predicted seconds that a batch takes at the least, by the p95 of the errors."""
        return max(0.0, 1.0 - self._time.errors()[1]) if self._time.is_trusted else 0.0

    def most_bytes(self, shape: Shape) -> float | None:
        """Return the bytes that such a batch allocates at most, by the p95 of the errors; None: not known well."""
        if not self._memory.is_trusted:
            return None
        return self._memory.predict(shape) * (1.0 + self._memory.errors()[1])

    def errors(self) -> tuple[float, float]:
        """Return the median and the 95th percentile of the last predictions' relative errors, of seconds."""
        return self._time.errors()

    def observe(self, shape: Shape, seconds: float, peak_bytes: int | None = None) -> None:
        """Learn from a batch that ran."""
        self._time.observe(shape, seconds)
        if peak_bytes:
            self._memory.observe(shape, peak_bytes)

    def settle(self) -> None:
        """End warm-up: what was learned so far is never forgotten altogether, however one-sided the calls are."""
        self._time.settle()
        self._memory.settle()

    def _batches(self, shape: Shape, work_s: float, max_tokens: float, max_s: float) -> float:
        """How many batches so much work fills, which takes so long without their base."""
        batches = max(shape.tokens / max_tokens, work_s / max(max_s - self.base_s, 1e-9))
        return min(batches, shape.sequences)


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
