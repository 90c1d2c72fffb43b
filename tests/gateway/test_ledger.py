from contextlib import suppress

import pytest

from gateway.ledger import Ledger
from inference import CallTimings
from tests.fakes import FakeClock


def test_a_call_that_is_answered_counts_where_its_time_went() -> None:
    clock = FakeClock(10.0)
    ledger = Ledger(clock, lambda: 1234.5)

    with ledger.call("m") as call:
        clock.now = 10.5
        call.answer(CallTimings(tokenise_s=0.125, queue_s=0.25, device_s=0.0625))
        clock.now = 11.0

    told = ledger.account("m").told()
    assert {part: (each["count"], each["ns"] / 1e9) for part, each in told.items()} == {
        "success": (1, 1.0),
        "fail": (0, 0.0),
        "queue": (1, 0.25),
        "compute_input": (1, 0.125),
        "compute_infer": (1, 0.0625),
        "compute_output": (1, 0.5),
    }
    assert ledger.account("m").last_ms == 1234500


@pytest.mark.parametrize("answered", [False, True])
def test_a_call_that_raises_has_failed_whether_or_not_the_engine_had_answered(answered: bool) -> None:
    clock = FakeClock()
    ledger = Ledger(clock)

    with suppress(ZeroDivisionError), ledger.call("m") as call:
        clock.now = 2.0
        if answered:
            call.answer(CallTimings(0.0, 0.0, 0.0))
        raise ZeroDivisionError

    told = ledger.account("m").told()
    assert told["fail"] == {"count": 1, "ns": 2_000_000_000}
    assert {part: each["count"] for part, each in told.items() if part != "fail"} == dict.fromkeys(
        told.keys() - {"fail"}, 0
    )
