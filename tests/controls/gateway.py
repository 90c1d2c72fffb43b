"""The guards of the HTTP side: heads and bodies that never end, callers that go, and the drain."""

from tests.controls.guard import Guard

SERVER = "gateway/server.py"
CALL = "gateway/call.py"
TESTS = "tests/gateway/test_server.py::"
LOST = f"{TESTS}test_a_lost_device_ends_the_process_with_another_code"

GUARDS = (
    Guard(
        "a head that never ends is refused",
        SERVER,
        "if self._head_bytes is not None and self._head_bytes > _MAX_HEAD_BYTES:",
        "if False:",
        f"{TESTS}test_a_flood_of_headers_is_refused",
    ),
    Guard(
        "a head that is too large is refused",
        SERVER,
        'raise ValueError("the head is too large")',
        "pass",
        f"{TESTS}test_a_path_without_end_is_refused",
    ),
    Guard(
        "a head must arrive in time",
        SERVER,
        "super().connection_made(transport)\n        self._expect_head()",
        "super().connection_made(transport)",
        f"{TESTS}test_a_head_that_never_arrives_is_cut[nothing]",
    ),
    Guard(
        "a head that drips gains no time",
        SERVER,
        "if self._timer is None:\n            self._expect_head()",
        "if True:\n            self._expect_head()",
        f"{TESTS}test_a_head_that_drips_is_cut",
    ),
    Guard(
        "a body must arrive in time",
        SERVER,
        "self._expect(self.body_timeout_s)",
        "self._expect_nothing()",
        f"{TESTS}test_a_body_that_never_arrives_is_cut_and_nothing_is_queued",
    ),
    Guard(
        "a body has a limit",
        CALL,
        "if len(body) > most:",
        "if False:",
        f"{TESTS}test_a_streamed_body_over_the_limit_is_refused",
    ),
    Guard(
        "a caller that goes cancels its call",
        CALL,
        "            self._work.cancel()",
        "            pass",
        f"{TESTS}test_callers_that_close_their_sockets_cost_the_device_nothing",
    ),
    Guard(
        "a caller names no timeout beyond the limit",
        CALL,
        "1 <= int(told[:10]) <= most",
        "1 <= int(told[:10])",
        "tests/gateway/test_call.py::test_a_timeout_that_is_no_number_of_milliseconds_is_refused_and_nothing_is_queued",
    ),
    Guard(
        "a drain goes on accepting for a while",
        SERVER,
        "await asyncio.sleep(delay_s)",
        "pass",
        f"{TESTS}test_calls_within_the_drain_delay_are_answered",
    ),
    Guard(
        "a drain has an end",
        SERVER,
        "call_later(drain.drain_timeout_s, give_up)",
        "call_later(86400.0, give_up)",
        f"{TESTS}test_calls_that_are_not_done_in_time_are_told_so_and_counted_in_the_exit_code",
    ),
    Guard(
        "a lost device ends the process",
        SERVER,
        "{stopping, serving, dying}",
        "{stopping, serving}",
        LOST,
    ),
    Guard(
        "a lost device shows in the exit code",
        SERVER,
        "return 1 if lost or not lifecycle.healthy else 0",
        "return 1 if lost else 0",
        LOST,
    ),
)
