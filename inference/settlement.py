"""
What became of each entry of a batch: an answer or an error, and telling it to the entry's reply.

Knows no device and no lock; `settle` runs on the loop of the replies.
"""

from collections.abc import Sequence

from inference.errors import InferenceError, RuntimeFailed
from inference.request import Batch, Entry, Report, Result, Row, RowFailed, Timings

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


def _outcome(outcome: Row | RowFailed, timings: Timings) -> Result | InferenceError:
    if isinstance(outcome, RowFailed):
        return RuntimeFailed(outcome.reason)
    return Result(outcome, timings)
