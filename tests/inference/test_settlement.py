import numpy as np
import pytest

from inference.errors import RuntimeFailed
from inference.request import Batch, Entry, Report, Result, RowFailed, Timings, packed_shape
from inference.settlement import settle, settlements
from tests.fakes import Recorded, call, request


def report(started: float, device_s: float) -> Report:
    return Report("m", 2, 16, 16, 0.0, device_s, started=started)


def batch(*arrived: float) -> Batch:
    owner = call(*(request() for _ in arrived))
    waited = [Entry(item, owner, Recorded(), at) for item, at in zip(owner.requests, arrived, strict=True)]
    return Batch("m", tuple(waited), packed_shape([8] * len(arrived)), 0.0)


def test_every_entry_gets_its_own_row_and_its_own_wait() -> None:
    ran = batch(1.0, 2.0)

    settled = settlements(ran, [np.float32([1]), np.float32([2])], report(3.0, 0.5))

    results = [outcome for _, outcome in settled if isinstance(outcome, Result)]
    assert [entry for entry, _ in settled] == list(ran.entries)
    assert [result.row[0] for result in results] == [1, 2]
    assert [result.timings for result in results] == [
        Timings(2.0, 0.5, report(3.0, 0.5)),
        Timings(1.0, 0.5, report(3.0, 0.5)),
    ]


def test_each_reply_is_told_once_what_became_of_its_entry() -> None:
    ran = batch(0.0, 0.0)

    settle(settlements(ran, [np.float32([1]), RowFailed("not finite")], report(0.0, 0.0)))

    (answer,), (error,) = (entry.reply.deliveries for entry in ran.entries if isinstance(entry.reply, Recorded))
    assert isinstance(answer, Result)
    assert isinstance(error, RuntimeFailed)
    assert str(error) == "not finite"


def test_a_row_too_few_is_no_answer_for_anybody() -> None:
    with pytest.raises(ValueError, match="shorter"):
        settlements(batch(0.0, 0.0), [np.float32([1])], report(0.0, 0.0))
