"""The guards of the shell, and of where outcomes go."""

from tests.controls.guard import Guard

BATCHER = "inference/batcher.py"
REPLY = "inference/reply.py"
SETTLEMENT = "inference/settlement.py"
TESTS = "tests/inference/test_batcher.py::"
FAILURES = "tests/inference/test_failures.py::"
REPLIES = "tests/inference/test_reply.py::"
STUCK = f"{TESTS}test_a_stuck_device_is_lost_although_nobody_asks"
DEATH = f"{TESTS}test_an_exception_of_any_kind_in_the_device_thread_answers_everybody"

GUARDS = (
    Guard(
        "a call ends at its deadline",
        BATCHER,
        "timer = loop.call_later(call.deadline - now, pending.fail, late)",
        "timer = loop.call_later(1e9, pending.fail, late)",
        f"{TESTS}test_a_waiting_call_ends_at_its_own_deadline_although_the_device_is_stuck",
    ),
    Guard(
        "what a caller leaves behind is cancelled",
        BATCHER,
        "self._forget(pending, self._reuse.end(plan))",
        "self._forget(pending, [])",
        f"{TESTS}test_a_caller_that_has_gone_never_reaches_the_device",
    ),
    Guard(
        "a lost device takes no calls",
        BATCHER,
        "if self._lost is not None:\n                raise self._lost",
        "if False:\n                raise self._lost",
        STUCK,
    ),
    Guard(
        "a closing batcher takes no calls",
        BATCHER,
        "if self._closing:\n                raise",
        "if False:\n                raise",
        f"{TESTS}test_closing_answers_what_was_taken_and_refuses_the_rest",
    ),
    Guard(
        "a refusal reaches the caller",
        BATCHER,
        "if refused is not None:\n                raise",
        "if False:\n                raise",
        f"{TESTS}test_a_refused_call_says_when_to_come_back",
    ),
    Guard(
        "an arrival wakes the device thread",
        BATCHER,
        "self._reuse.begin(plan, entries, call.deadline)\n            self._changed.notify_all()",
        "self._reuse.begin(plan, entries, call.deadline)",
        f"{TESTS}test_every_caller_gets_its_own_answer",
    ),
    Guard(
        "closing wakes the device thread",
        BATCHER,
        "self._closing = True\n            self._changed.notify_all()",
        "self._closing = True",
        f"{TESTS}test_the_device_threads_end_when_closed",
    ),
    Guard(
        "the last call to end lets the drain end",
        BATCHER,
        "if not self._pending:",
        "if False:",
        f"{TESTS}test_closing_answers_what_was_taken_and_refuses_the_rest",
    ),
    Guard(
        "a device thread does not die unseen",
        BATCHER,
        "self._ended(device, sys.exception())",
        "pass",
        DEATH,
    ),
    Guard(
        "a batch that fails is bisected",
        BATCHER,
        "if len(part.entries) == 1:\n                self._deliver([(part.entries[0], error)])",
        "if part.entries:\n                self._deliver([(entry, error) for entry in part.entries])",
        f"{FAILURES}test_only_the_guilty_fail[echo-poison-RuntimeFailed]",
    ),
    Guard(
        "a batch that does not fit is bisected",
        BATCHER,
        "if len(part.entries) == 1:",
        'if len(part.entries) == 1 or type(error).__name__ == "OutOfMemory":',
        f"{FAILURES}test_only_the_guilty_fail[echo-too_large-OutOfMemory]",
    ),
    Guard(
        "the model itself may raise",
        "inference/device.py",
        'raise RuntimeFailed(f"{type(err).__name__}: {err}") from err',
        "raise",
        f"{FAILURES}test_only_the_guilty_fail_when_it_is_the_model_itself_that[raises]",
    ),
    Guard(
        "both halves of a batch that fails run again",
        BATCHER,
        "parts += reversed(halves)",
        "parts += halves[:1]",
        f"{TESTS}test_a_poisonous_input_fails_alone_and_its_neighbours_are_answered",
    ),
    Guard(
        "what is late when its batch fails is answered",
        BATCHER,
        "            self._give_up(late)\n            parts",
        "            parts",
        f"{TESTS}test_a_call_that_comes_when_the_same_input_was_given_up_gets_its_own_answer",
    ),
    Guard(
        "what is late when its turn comes is answered",
        BATCHER,
        "self._give_up(decision.expired)",
        "pass",
        f"{TESTS}test_an_entry_found_late_when_its_turn_comes_is_answered_and_not_run",
    ),
    Guard(
        "an error holds no tensors",
        BATCHER,
        "error.__cause__ = error.__context__ = None",
        "pass",
        f"{TESTS}test_a_failure_does_not_keep_what_its_batch_held_in_memory",
    ),
    Guard(
        "a row that failed fails its call alone",
        SETTLEMENT,
        "return RuntimeFailed(outcome.reason)",
        "raise RuntimeFailed(outcome.reason)",
        f"{FAILURES}test_only_the_guilty_fail[echo-not_finite-RuntimeFailed]",
    ),
    Guard(
        "a row too few is found out",
        SETTLEMENT,
        "zip(batch.entries, outcomes, strict=True)",
        "zip(batch.entries, outcomes, strict=False)",
        f"{TESTS}test_a_runtime_that_returns_too_few_rows_is_found_out",
    ),
    Guard(
        "a row that is not finite is no answer",
        "inference/encoder.py",
        "            if np.isfinite(row).all():",
        "            if True:",
        f"{FAILURES}test_only_the_guilty_fail_when_it_is_the_model_itself_that[is not finite]",
    ),
    Guard(
        "a lost device tells the process",
        BATCHER,
        "        self._dead.set()\n",
        "",
        STUCK,
    ),
    Guard(
        "a lost device fails what waits",
        BATCHER,
        "self._dead.set()\n        self.abandon(error)",
        "self._dead.set()",
        f"{FAILURES}test_a_lost_device_answers_everybody_at_once_every_time[echo-dies_of_a_bug]",
    ),
    Guard(
        "a device that is stuck is lost",
        BATCHER,
        "if not device.lost and device.spare_s(self._limits, now) <= 0:",
        "if False:",
        f"{FAILURES}test_a_stuck_device_is_lost_and_answers_everybody_at_once_every_time",
    ),
    Guard(
        "the watch goes on",
        BATCHER,
        "            loop.call_later(min(soonest_s",
        "            (lambda *nothing: None)(min(soonest_s",
        STUCK,
    ),
    Guard(
        "the watch looks soon although a long batch runs",
        BATCHER,
        "min(soonest_s, self._limits.stuck_after_s)",
        "soonest_s",
        f"{TESTS}test_a_short_batch_is_stuck_no_later_because_a_long_one_ran_before",
    ),
    Guard(
        "a long batch may take long",
        "inference/device_thread.py",
        "max(limits.stuck_after_s, _STUCK_FACTOR * batch.predicted_s)",
        "limits.stuck_after_s",
        f"{TESTS}test_a_batch_within_ten_times_its_prediction_is_not_stuck",
    ),
    Guard(
        "what is lost stays lost",
        BATCHER,
        "device.lost = True",
        "pass",
        f"{TESTS}test_a_lost_device_stays_lost_when_its_batch_ends_after_all",
    ),
    Guard(
        "nobody waits for a stuck thread",
        BATCHER,
        "min(timeout_s, _MOMENT_S) if device.lost else timeout_s",
        "timeout_s",
        f"{TESTS}test_the_end_does_not_wait_for_a_lost_device",
    ),
    Guard(
        "a result that comes twice counts once",
        REPLY,
        "if self.future.done() or self._results[index] is not None:",
        "if self.future.done():",
        f"{REPLIES}test_a_result_that_comes_twice_counts_once",
    ),
    Guard(
        "a result that comes late is dropped",
        REPLY,
        "if self.future.done() or self._results[index] is not None:",
        "if self._results[index] is not None:",
        f"{REPLIES}test_a_caller_that_has_gone_is_told_nothing",
    ),
    Guard(
        "a failure that comes late is dropped",
        REPLY,
        "if not self.future.done():",
        "if True:",
        f"{REPLIES}test_an_answered_call_does_not_fail_any_more",
    ),
    Guard(
        "a failure that nobody reads is not logged",
        REPLY,
        "self.future.exception()",
        "pass",
        f"{REPLIES}test_a_failure_that_nobody_waits_for_is_no_news_for_the_log",
    ),
)
