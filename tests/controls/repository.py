"""The guards of changes to what is served."""

from tests.controls.guard import Guard

BATCHER = "inference/batcher.py"
CONTROL = "gateway/control.py"
REPOSITORY = "inference/repository.py"
TESTS = "tests/inference/test_repository.py::"
BATCHES = "tests/inference/test_batcher.py::"
HTTP = "tests/gateway/test_control.py::"
READS = """            frame = await read_frame(request, self._v2.most_bytes)
            check_values(frame.head, self._v2.limits, copies=_COPIES)
"""

GUARDS = (
    Guard(
        "a call keeps its version until it ends",
        REPOSITORY,
        "await served.use.over()",
        "pass",
        f"{TESTS}test_a_call_that_is_still_tokenised_keeps_its_version",
    ),
    Guard(
        "a version goes after its last batch",
        BATCHER,
        "await idle.wait()",
        "await asyncio.sleep(0)",
        f"{BATCHES}test_a_model_whose_callers_have_all_gone_is_held_by_its_batch_alone",
    ),
    Guard(
        "who waits for the end of a version learns of a lost device",
        BATCHER,
        "if self._lost is not None or not (taken",
        "if not (taken",
        f"{BATCHES}test_no_retirement_waits_for_a_device_that_is_lost",
    ),
    Guard(
        "no batch begins while the devices are held",
        BATCHER,
        "if not self._holds else Decision()",
        "if True else Decision()",
        f"{BATCHES}test_nothing_runs_while_the_devices_are_held_and_what_came_runs_after",
    ),
    Guard(
        "a dtype that becomes the default of all threads is loaded alone",
        "inference/weights.py",
        "nullcontext() if dtype == torch.get_default_dtype() else alone()",
        "nullcontext()",
        "tests/inference/test_weights.py::test_a_dtype_that_becomes_the_default_of_all_threads_is_loaded_alone",
    ),
    Guard(
        "two versions are loaded at once only where they fit",
        REPOSITORY,
        "if free is None or needed <= free:",
        "if True:",
        f"{TESTS}test_where_two_versions_do_not_fit_the_old_one_answers_what_it_took_and_goes_first",
    ),
    Guard(
        "what fits nowhere costs the old version nothing",
        REPOSITORY,
        "if old is None or needed > free + self._engine.held_bytes(old.model.key):",
        "if old is None:",
        f"{TESTS}test_a_model_that_does_not_fit_at_all_is_refused_before_the_old_one_goes",
    ),
    Guard(
        "an old version that went first comes back",
        REPOSITORY,
        "if name not in self.served and not self._closed:",
        "if False:",
        f"{TESTS}test_where_the_old_one_went_first_it_comes_back_if_the_new_one_fails",
    ),
    Guard(
        "models are made ready on one thread",
        REPOSITORY,
        "loop.run_in_executor(self._thread, ",
        "loop.run_in_executor(None, ",
        f"{TESTS}test_every_model_is_made_ready_on_one_thread_since_torch_keeps_memory_in_each",
    ),
    Guard(
        "a version's kept answers are its own",
        "inference/request.py",
        'return name if version == 1 else f"{name}{_VERSION_MARK}{version}"',
        "return name",
        f"{TESTS}test_an_answer_that_was_kept_is_not_given_for_a_newer_version",
    ),
    Guard(
        "a change is made though whoever asked has gone",
        REPOSITORY,
        "return await asyncio.shield(task)",
        "return await task",
        f"{TESTS}test_who_asks_for_a_load_may_go_and_it_is_made_all_the_same",
    ),
    Guard(
        "models change only where that is switched on",
        CONTROL,
        'if self._config.control.mode != "explicit":',
        "if False:",
        f"{HTTP}test_models_cannot_be_changed_unless_that_is_switched_on",
    ),
    Guard(
        "pages in browsers change nothing",
        CONTROL,
        'else header(request.scope, b"origin") is None',
        "else True",
        f"{HTTP}test_a_page_in_a_browser_cannot_change_models",
    ),
    Guard(
        "where there are keys, only an admin's changes models",
        CONTROL,
        "is_admin(request.scope) if self._keyed",
        "True if self._keyed",
        f"{HTTP}test_a_key_changes_models_only_with_the_right_for_it_and_only_its_own",
    ),
    Guard(
        "an admin changes only the models of its grant",
        CONTROL,
        "check_model(exchange.caller, name)",
        "pass",
        f"{HTTP}test_a_key_changes_models_only_with_the_right_for_it_and_only_its_own",
    ),
    Guard(
        "the index shows a caller its own models",
        CONTROL,
        "if who is None or who.may_use(state.name)",
        "if True",
        f"{HTTP}test_the_index_shows_a_caller_its_own_models",
    ),
    Guard(
        "a model that was replaced while the body came answers as the new one",
        "gateway/kserve.py",
        f"{READS}            model = self._model(request)",
        f"            model = self._model(request)\n{READS.rstrip()}",
        f"{HTTP}test_what_was_replaced_while_the_body_came_answers_as_the_new_version",
    ),
    Guard(
        "no link leads out of the root",
        CONTROL,
        "realpath(root), realpath(source.location)",
        "str(root), source.location",
        f"{HTTP}test_nothing_else_may_be_loaded[{{root}}/link]",
    ),
    Guard(
        "models take turns by the device time they got",
        "inference/scheduler.py",
        "(_served(lane.served_s, priority), lane.waiting.oldest)",
        "lane.waiting.oldest",
        "tests/inference/test_scheduler.py::test_models_take_turns_by_the_device_time_they_got",
    ),
)
