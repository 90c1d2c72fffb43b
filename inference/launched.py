"""A batch on its way through an encoder, and what comes back of it: one row a request, on the host."""

from collections.abc import Mapping, Sequence

import numpy as np

from inference.device import Passage, model_edge
from inference.heads import Rows
from inference.request import Output, Request, Row, RowFailed


class LaunchedBatch:
    """A batch on its way: implements runtime.Launched."""

    def __init__(
        self, answers: Mapping[Output, Rows], requests: Sequence[Request], order: Sequence[int], passage: Passage
    ) -> None:
        """Take what each output will hold, for requests that are sorted, and the place of each in the batch."""
        self._answers = answers
        self._requests = requests
        self._order = order
        self._passage = passage

    @property
    def busy_s(self) -> float | None:
        """How long the device was at it, if it tells."""
        return self._passage.busy_s

    def wait(self) -> Sequence[Row | RowFailed]:
        """Return one outcome an entry, in the batch's order."""
        with model_edge():
            self._passage.wait()
            rows = answers_of(self._answers, self._requests)
            finite = {output: _finite(rows, len(self._order)) for output, rows in self._answers.items()}
        outcomes: list[Row | RowFailed] = [RowFailed("the model's answer is not finite")] * len(self._order)
        for number, place in enumerate(self._order):
            if finite[self._requests[number].output][number]:
                outcomes[place] = rows[number]
        return outcomes


def answers_of(rows: Mapping[Output, Rows], requests: Sequence[Request]) -> list[Row]:
    """Move rows to the host and give each request the one that it asked for."""
    all_rows = {output: split(of_output, len(requests)) for output, of_output in rows.items()}
    return [all_rows[request.output][index] for index, request in enumerate(requests)]


def split(rows: Rows, count: int) -> list[Row]:
    """Move rows to the host, and cut them into those of so many requests."""
    values = rows.values.cpu().numpy()
    if rows.values.is_pinned():
        values = values.copy()  # torch wants pinned memory back, and answers may be kept
    if rows.counts is None:
        return [values[index] for index in range(count)]
    return np.split(values, np.cumsum(rows.counts)[:-1])


def _finite(rows: Rows, count: int) -> list[bool]:
    """Say of each request's row whether all its numbers are finite."""
    good = np.isfinite(rows.values.numpy()).all(1)
    if rows.counts is None:
        return [bool(each) for each in good[:count]]
    return [bool(part.all()) for part in np.split(good, np.cumsum(rows.counts)[:-1])]
