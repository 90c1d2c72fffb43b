import pytest

from benchmarks.policy.curves import CURVES, Curve
from benchmarks.policy.neighbours import neighbours


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_a_light_model_waits_at_most_two_batches_longer_beside_a_heavy_one(curve: Curve) -> None:
    """On the simulated clock: what is asserted is whose turn it is, not how fast anything is."""
    found = neighbours(curve, seed=0)

    assert found.heavy_texts > 0
    assert found.beside_p99_s <= found.alone_p99_s + 2 * found.cap_s
