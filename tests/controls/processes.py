"""The guards between processes: what comes over the socket, who goes, and what was counted."""

from tests.controls.guard import Guard

HOST = "inference/host.py"
REMOTE = "inference/remote.py"
WIRE = "inference/wire.py"
SAMPLES = "gateway/samples.py"
ENDS = "tests/inference/test_remote.py::"
FRAMES = "tests/inference/test_wire.py::"

GUARDS = (
    Guard(
        "an HTTP process that goes takes its calls with it",
        HOST,
        "for call in guest.calls.values():\n            call.cancel()",
        "pass",
        f"{ENDS}test_an_http_process_that_goes_takes_its_own_calls_and_no_others",
    ),
    Guard(
        "another version is turned away",
        HOST,
        "if version != self._version:",
        "if False:",
        f"{ENDS}test_another_version_is_turned_away_and_says_so",
    ),
    Guard(
        "nobody calls without a greeting",
        HOST,
        "case Cancel() if guest is not None:\n                call = guest.calls.pop(message.number, None)",
        "case Cancel():\n                call = None if guest is None else guest.calls.pop(message.number, None)",
        f"{ENDS}test_nonsense_ends_its_own_connection_and_no_other[no greeting]",
    ),
    Guard(
        "an engine that goes fails its calls at once",
        REMOTE,
        'self._fail_all(Unavailable("the engine has gone, and starts again"))',
        "pass",
        f"{ENDS}test_an_engine_that_goes_fails_its_calls_at_once_and_the_next_one_is_found",
    ),
    Guard(
        "who stops waiting is forgotten by the engine",
        REMOTE,
        "line.send(Cancel(number))",
        "pass",
        f"{ENDS}test_who_stops_waiting_is_forgotten_by_the_engine",
    ),
    Guard(
        "a call ends at its deadline though the engine is mute",
        REMOTE,
        "async with asyncio.timeout(call.deadline - self._clock()):",
        "async with asyncio.timeout(None):",
        f"{ENDS}test_a_call_ends_at_its_deadline_whatever_the_engine_does",
    ),
    Guard(
        "a frame that claims too much is refused",
        WIRE,
        "if size > self._most:",
        "if False:",
        f"{FRAMES}test_a_frame_that_claims_too_much_is_refused_before_it_is_held",
    ),
    Guard(
        "a call of nothing is refused",
        WIRE,
        "if not ask.inputs or not math.isfinite(ask.deadline):",
        "if False:",
        f"{FRAMES}test_a_call_that_cannot_be_is_refused[nothing]",
    ),
    Guard(
        "a gauge outlives no process",
        SAMPLES,
        'return [family for family in families if family.kind != "gauge"]',
        "return list(families)",
        "tests/gateway/test_samples.py::test_what_a_process_counted_outlives_it_and_how_it_was_does_not",
    ),
)
