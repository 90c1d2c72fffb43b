from collections.abc import Sequence

import pytest

from inference.cost import CostModel
from inference.errors import OutOfMemory
from inference.lane import Lane
from inference.profile import teach
from inference.request import Batch, Row, RowFailed
from tests.fakes import ScriptedRuntime

FITS = 100  # tokens


def small_device() -> ScriptedRuntime:
    def run(batch: Batch) -> Sequence[Row | RowFailed] | None:
        if batch.tokens > FITS:
            raise OutOfMemory("too large")
        return None

    return ScriptedRuntime(run)


def test_a_warm_up_batch_that_does_not_fit_is_halved_and_remembered() -> None:
    device, lane = small_device(), Lane(True, CostModel())

    teach("m", "vector", [50] * 16, device, lane)

    assert [len(batch.entries) for batch in device.batches] == [16, 8, 4, 2, 2]
    assert FITS <= lane.fits < 2 * FITS


def test_a_single_text_that_does_not_fit_is_told() -> None:
    with pytest.raises(OutOfMemory):
        teach("m", "vector", [FITS + 1], small_device(), Lane(True, CostModel()))
