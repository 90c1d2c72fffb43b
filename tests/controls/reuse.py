"""The guards of single flight, kept answers and quarantine."""

from tests.controls.guard import Guard

REUSE = "inference/reuse.py"
TESTS = "tests/inference/test_reuse.py::"
QUARANTINE = f"{TESTS}test_an_input_that_fails_twice_is_not_tried_again_for_a_while"
NO_FAULT = f"{TESTS}test_what_is_no_fault_of_the_input_does_not_count_against_it"

GUARDS = (
    Guard(
        "what fails again and again is not tried again",
        REUSE,
        "elif failure.times >= _TIMES_TO_QUARANTINE:",
        "elif False:",
        QUARANTINE,
    ),
    Guard(
        "poison under load costs little",
        REUSE,
        "elif failure.times >= _TIMES_TO_QUARANTINE:",
        "elif False:",
        "tests/inference/test_failures.py::test_one_poison_sent_again_and_again_costs_the_device_little[echo]",
    ),
    Guard(
        "one failure may have been the device's",
        REUSE,
        "elif failure.times >= _TIMES_TO_QUARANTINE:",
        "elif failure.times:",
        QUARANTINE,
    ),
    Guard(
        "quarantine ends",
        REUSE,
        "if failure.until <= self._clock():",
        "if False:",
        QUARANTINE,
    ),
    Guard(
        "memory that runs out is no fault of the input",
        REUSE,
        "if not isinstance(error, RuntimeFailed) or isinstance(error, OutOfMemory):",
        "if not isinstance(error, RuntimeFailed):",
        NO_FAULT,
    ),
    Guard(
        "a deadline is no fault of the input",
        REUSE,
        "if not isinstance(error, RuntimeFailed) or isinstance(error, OutOfMemory):",
        "if isinstance(error, OutOfMemory):",
        NO_FAULT,
    ),
    Guard(
        "failures are not remembered without end",
        REUSE,
        "if len(self._failures) > _MOST_FAILURES:",
        "if False:",
        f"{TESTS}test_failures_are_not_remembered_without_end",
    ),
    Guard(
        "callers share nothing",
        REUSE,
        "(call.caller, digest(request))",
        '("", digest(request))',
        f"{TESTS}test_another_caller_shares_nothing",
    ),
    Guard(
        "the digest names the model",
        REUSE,
        "{len(request.model)} {request.model} ",
        "",
        f"{TESTS}test_the_digest_names_the_model_and_the_tokens",
    ),
    Guard(
        "what was given up is not joined",
        REUSE,
        " or not holds(flight.entry)",
        "",
        f"{TESTS}test_a_flight_whose_entry_was_given_up_is_not_joined",
    ),
    Guard(
        "what is less urgent is not joined",
        REUSE,
        "entry.call.priority >= call.priority and ",
        "",
        f"{TESTS}test_a_flight_of_a_lower_class_is_not_joined",
    ),
    Guard(
        "what may run later is not joined",
        REUSE,
        " and entry.deadline <= call.deadline",
        "",
        f"{TESTS}test_a_flight_that_could_wait_longer_is_not_joined",
    ),
    Guard(
        "a joined entry lives as long as the last who waits",
        REUSE,
        "self.entry.deadline = max(self.entry.deadline, deadline)",
        "pass",
        f"{TESTS}test_an_entry_is_not_given_up_while_a_later_call_waits_for_it",
    ),
    Guard(
        "a caller that goes cancels nothing of others",
        REUSE,
        "{flight for flight, _ in plan.seats if not flight.slots}",
        "{flight for flight, _ in plan.seats}",
        f"{TESTS}test_a_caller_that_goes_does_not_cancel_what_another_waits_for",
    ),
    Guard(
        "what has landed is not cancelled",
        REUSE,
        "flight.entry = None",
        "pass",
        f"{TESTS}test_a_flight_that_has_landed_leaves_nothing_to_cancel",
    ),
    Guard(
        "what nobody waits for is not joined",
        REUSE,
        "for flight in empty:",
        "for flight in ():",
        f"{TESTS}test_what_nobody_waits_for_is_cancelled_and_not_joined_again",
    ),
    Guard(
        "the same input twice is one",
        REUSE,
        "own.get(key) or ",
        "",
        f"{TESTS}test_the_same_input_twice_in_one_call_is_computed_once",
    ),
    Guard(
        "a kept answer does not hold its batch",
        REUSE,
        "result.row.copy()",
        "result.row",
        f"{TESTS}test_kept_answers_do_not_hold_the_batch_they_came_from",
    ),
    Guard(
        "kept answers stay within their bytes",
        REUSE,
        "while self._kept_bytes > self._cache_bytes:",
        "while False:",
        f"{TESTS}test_the_oldest_answers_go_when_the_bytes_are_used_up",
    ),
)
