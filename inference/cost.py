"""
What a batch costs in seconds: learned from the batches that ran.

    seconds = base + a * tokens + b * sequences + c * sum of squared lengths,  all coefficients >= 0

Least squares on relative errors with exponential forgetting, solved by coordinate descent under
non-negativity (Franc, Hlavac, Navara 2005): four unknowns, so a boring loop in plain Python.
"""

from inference.request import Shape

_FEATURES = 4
_SCALES = (1.0, 1e3, 1e1, 1e5)  # keeps the normal equations well conditioned
_FORGETTING = 0.99  # a batch counts half after 69 others
_SWEEPS = 50
_TRUSTED_AFTER = 8  # observations before outliers are clipped
_OUTLIER = 4.0  # an observation counts for at most so many times its prediction


class CostModel:
    """Predicts the seconds a batch takes; `observe` refines it."""

    def __init__(self) -> None:
        """Start with a guess of 1 ms + 10 us a token: warm-up replaces it before the first call."""
        self._normal = [[0.0] * _FEATURES for _ in range(_FEATURES)]
        self._moment = [0.0] * _FEATURES
        self._coefficients = [1e-3, 1e-2, 0.0, 0.0]
        self._observed = 0

    def seconds(self, shape: Shape) -> float:
        """Predict the device seconds of one batch of this shape."""
        return _dot(self._coefficients, _features(shape))

    def backlog_s(self, shape: Shape, max_batch_tokens: int) -> float:
        """Predict the device seconds of so much work when it runs in full batches."""
        if shape.sequences == 0:
            return 0.0
        batches = -(-shape.tokens // max_batch_tokens)
        return self.seconds(shape) + (batches - 1) * self._coefficients[0]

    def observe(self, shape: Shape, seconds: float) -> None:
        """Learn from a batch that ran."""
        if self._observed >= _TRUSTED_AFTER:
            seconds = min(seconds, _OUTLIER * self.seconds(shape))
        self._observed += 1
        x = _features(shape)
        weight = 1.0 / max(seconds, 1e-6) ** 2  # squares of relative errors
        for i in range(_FEATURES):
            self._moment[i] = _FORGETTING * self._moment[i] + weight * seconds * x[i]
            for j in range(_FEATURES):
                self._normal[i][j] = _FORGETTING * self._normal[i][j] + weight * x[i] * x[j]
        self._solve()

    def _solve(self) -> None:
        c = self._coefficients
        for _ in range(_SWEEPS):
            for i in range(_FEATURES):
                curvature = self._normal[i][i]
                if curvature > 0.0:
                    slope = _dot(self._normal[i], c) - self._moment[i]
                    c[i] = max(0.0, c[i] - slope / curvature)


def _features(shape: Shape) -> list[float]:
    values = (1.0, shape.tokens, shape.sequences, shape.squares)
    return [value / scale for value, scale in zip(values, _SCALES, strict=True)]


def _dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
