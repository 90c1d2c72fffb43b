"""
What became of each entry of a batch: an answer or an error, and telling it to the entry's reply.

Knows no device and no lock; `settle` runs on the loop of the replies.
"""

import itertools
from collections.abc import Sequence

from inference.errors import InferenceError, RuntimeFailed
from inference.request import Batch, Entry, Report, Result, Row, RowFailed, Timings, name_of

_numbers = itertools.count(1)

Settlement = tuple[Entry, Result | InferenceError]


def settlements(batch: Batch, outcomes: Sequence[Row | RowFailed], report: Report) -> list[Settlement]:
    """What the rows of a batch that ran as reported mean to its entries; raises ValueError if some lack."""
    return [
        (entry, _outcome(outcome, Timings(report.started - entry.arrived, report.device_s, report)))
        for entry, outcome in zip(batch.entries, outcomes, strict=True)
    ]


def settle(settled: Sequence[Settlement]) -> None:
    """Tell every reply what became of its entry."""
    for entry, outcome in settled:
        if isinstance(outcome, InferenceError):
            entry.reply.fail(outcome)
        else:
            entry.reply.succeed(outcome)


def report_of(batch: Batch, started: float, device_s: float, error: InferenceError | None) -> Report:
    """Say what became of a batch as a whole, which its device began at `started` and was busy with for so long."""
    return Report(
        model=name_of(batch.model),
        sequences=len(batch.entries),
        tokens=batch.tokens,
        padded_tokens=batch.shape.tokens,
        predicted_s=batch.predicted_s,
        device_s=device_s,
        error=None if error is None else type(error).__name__,
        number=next(_numbers),
        started=started,
    )


def _outcome(outcome: Row | RowFailed, timings: Timings) -> Result | InferenceError:
    if isinstance(outcome, RowFailed):
        return RuntimeFailed(outcome.reason)
    return Result(outcome, timings)
