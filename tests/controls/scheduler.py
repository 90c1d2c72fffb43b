"""The guards of admission, of memory that runs out, and of what is too late."""

from tests.controls.guard import Guard

SCHEDULER = "inference/scheduler.py"
SELECTION = "inference/selection.py"
LANE = "inference/lane.py"
TESTS = "tests/inference/test_scheduler.py::"
FULL = "if excess > hard or (excess > 0 and self._is_over_its_share(lane, work)):"
MEMORY = f"{TESTS}test_memory_that_ran_out_lowers_the_cap_fast_and_raises_it_slowly"
SPLIT = f"{TESTS}test_a_batch_that_failed_is_split_into_halves_without_what_is_late"

GUARDS = (
    Guard(
        "an idle engine refuses nothing",
        SCHEDULER,
        "        if self._is_idle():\n            tried =",
        "        if False:\n            tried =",
        f"{TESTS}test_an_idle_engine_refuses_nothing_that_can_be_in_time",
    ),
    Guard(
        "an engine that runs is not idle",
        SCHEDULER,
        "return len(taken) < self._devices and not any(",
        "return not any(",
        f"{TESTS}test_work_that_runs_counts_until_its_predicted_end",
    ),
    Guard(
        "a free device beside one that runs takes what comes",
        SCHEDULER,
        "return len(taken) < self._devices and not any(",
        "return not taken and not any(",
        f"{TESTS}test_a_free_device_beside_one_that_runs_takes_what_it_can_answer_in_time",
    ),
    Guard(
        "what runs on one device does not keep another from starting",
        SCHEDULER,
        "max(_level(free_s, ahead_s) + own_s, free_s[0]",
        "max(sum(free_s) + ahead_s + own_s, free_s[0]",
        f"{TESTS}test_a_call_is_admitted_behind_the_device_that_frees_first",
    ),
    Guard(
        "the halves of a batch stay with its device",
        SCHEDULER,
        "self._batch(lane, part, batch.device, now)",
        'self._batch(lane, part, "", now)',
        f"{TESTS}test_the_halves_of_a_failed_batch_stay_with_their_device_and_count_as_its_work",
    ),
    Guard(
        "a full queue refuses",
        SCHEDULER,
        FULL,
        "if excess > hard:",
        f"{TESTS}test_a_full_queue_refuses_the_whole_call_and_says_when_to_come_back",
    ),
    Guard(
        "a full queue still takes a light caller",
        SCHEDULER,
        FULL,
        "if excess > 0:",
        f"{TESTS}test_a_flood_does_not_lock_others_out_of_the_queue",
    ),
    Guard(
        "at twice the queue nobody is taken",
        SCHEDULER,
        FULL,
        "if excess > 0 and self._is_over_its_share(lane, work):",
        f"{TESTS}test_no_number_of_callers_gets_more_than_twice_the_queue",
    ),
    Guard(
        "a deadline out of reach is refused",
        SCHEDULER,
        "if finish > work.deadline:",
        "if False:",
        f"{TESTS}test_a_call_that_would_end_after_its_deadline_is_refused_with_the_missing_time",
    ),
    Guard(
        "what is too late costs no device time",
        SELECTION,
        "if entry.deadline < max(due, now + lane.cost.seconds(entry.shape)):",
        "if False:",
        f"{TESTS}test_a_late_entry_is_given_up_before_it_costs_device_time",
    ),
    Guard(
        "the last hope runs",
        SELECTION,
        "return _with_last_hope(found, len(lane.waiting), now)",
        "return found",
        f"{TESTS}test_the_last_one_left_runs_though_it_seems_too_late_so_that_the_cost_is_learned",
    ),
    Guard(
        "what is cancelled does not run",
        SCHEDULER,
        "if entry in waiting:",
        "if False:",
        f"{TESTS}test_a_cancelled_entry_never_runs",
    ),
    Guard(
        "what is cancelled does not run again",
        SCHEDULER,
        "[entry for entry in batch.entries if entry in self._held]",
        "list(batch.entries)",
        "tests/inference/test_batcher.py::test_what_its_caller_left_behind_is_not_run_again_when_its_batch_fails",
    ),
    Guard(
        "what is late when its batch fails comes back",
        SCHEDULER,
        "late = [entry for entry in wanted if entry.deadline <= now]",
        "late: list[Entry] = []",
        SPLIT,
    ),
    Guard(
        "a batch that fails is still held",
        SCHEDULER,
        "if report.error is None or len(batch.entries) == 1:",
        "if True:",
        SPLIT,
    ),
    Guard(
        "memory that runs out lowers the cap",
        LANE,
        "self.did_not_fit(batch.shape)",
        "pass",
        "tests/inference/test_failures.py::"
        "test_memory_that_runs_out_is_learned_so_that_few_batches_run_out_again[echo]",
    ),
    Guard(
        "memory that suffices raises the cap",
        LANE,
        "self.fits *= _CAP_GROWTH",
        "pass",
        MEMORY,
    ),
    Guard(
        "small batches say nothing about the cap",
        LANE,
        "if batch.shape.tokens > _NEARLY_FULL * self.cap_tokens(limits):",
        "if True:",
        f"{TESTS}test_small_batches_do_not_raise_the_cap_on_memory",
    ),
    Guard(
        "a batch that failed teaches no cost",
        LANE,
        "if report.error is not None:",
        "if False:",
        f"{TESTS}test_a_failed_batch_teaches_the_cost_model_nothing",
    ),
)
