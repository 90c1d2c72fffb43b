import pytest
import torch

from inference.checkpoint import Pooling
from inference.heads import Pooled
from inference.packing import layout

HIDDEN = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0], [6.0, 8.0]])
RUNS = layout([1, 3])


@pytest.mark.parametrize(
    ("pooling", "second"),
    [("mean", [3.0, 14 / 3]), ("cls", [3.0, 4.0]), ("max", [6.0, 8.0]), ("last", [6.0, 8.0])],
)
def test_each_sequence_is_pooled_by_itself(pooling: Pooling, second: list[float]) -> None:
    pooled = Pooled(pooling, normalise=False)(HIDDEN, RUNS, []).values

    assert torch.allclose(pooled, torch.tensor([[1.0, 0.0], second]))


def test_normalised_vectors_have_length_one() -> None:
    pooled = Pooled("last", normalise=True)(HIDDEN, RUNS, []).values

    assert torch.allclose(pooled, torch.tensor([[1.0, 0.0], [0.6, 0.8]]))


def test_half_precision_is_summed_in_float32() -> None:
    hidden = torch.full((4096, 1), 0.1, dtype=torch.float16)

    pooled = Pooled("mean", normalise=False)(hidden, layout([4096]), []).values

    assert pooled.dtype == torch.float32
    assert float(pooled) == pytest.approx(0.1, rel=1e-3)
