"""A loaded model on one device, as the batcher sees it. Whatever torch raises ends behind this seam."""

from collections.abc import Sequence
from typing import Protocol

from inference.request import Batch, Row, RowFailed


class Launched(Protocol):
    """A batch on its way through the device."""

    @property
    def busy_s(self) -> float | None:
        """How long the device was at it, known after `wait`; None: as long as it took, for it was alone there."""

    def wait(self) -> Sequence[Row | RowFailed]:
        """Return one outcome an entry, in order; raises OutOfMemory, DeviceLost or RuntimeFailed."""


class Runtime(Protocol):
    """A loaded model on one device."""

    def launch(self, batch: Batch) -> Launched:
        """Start a batch, on the device's thread; raises as `Launched.wait` does."""
