"""The guards against a hostile world that stand nowhere else: lengths, memory, what is no JSON, files that run code."""

from tests.controls.guard import Guard

CALL = "gateway/call.py"
CONNECTION = "gateway/connection.py"
CHECKPOINT = "inference/checkpoint.py"
CONNECTIONS = "tests/gateway/test_connection.py::"
CALLS = "tests/gateway/test_call.py::"
FILES = "tests/inference/test_checkpoint.py::"
LARGEST = f"{CONNECTIONS}test_of_bodies_that_arrive_the_largest_is_cut_and_its_call_ends_though_the_caller_stays"
NOT_FOR_LONG = "test_an_address_that_holds_half_of_it_brings_no_other_body_and_is_not_listened_to_for_long"
NO_JSON = f"{CALLS}test_what_is_no_json_in_unicode_is_the_callers_fault"

GUARDS = (
    Guard(
        "a length that is told twice is refused",
        CONNECTION,
        "        self._address: str | None = None  # None: it is not counted",
        "        self.parser.set_dangerous_leniencies(lenient_chunked_length=True)\n        self._address = None",
        f"{CONNECTIONS}test_what_is_smuggled_behind_a_length_that_is_told_twice_is_no_call[told0]",
    ),
    Guard(
        "chunk extensions and trailers have a limit",
        CONNECTION,
        "elif self._beside_bytes > _MAX_HEAD_BYTES:",
        "elif False:",
        f"{CONNECTIONS}test_what_a_streamed_body_brings_beside_itself_is_limited[one extension]",
    ),
    Guard(
        "large bodies that arrive are counted",
        CONNECTION,
        "            self._hold()",
        "            pass",
        LARGEST,
    ),
    Guard(
        "a body that is cut is not kept while its caller stays",
        CONNECTION,
        "            self._drop_call()",
        "            pass",
        LARGEST,
    ),
    Guard(
        "an address holds half of what bodies may hold",
        "gateway/census.py",
        "if before == 0 and",
        "if False and",
        "tests/gateway/test_census.py::test_an_address_that_holds_half_of_it_brings_no_more_bodies_and_others_do",
    ),
    Guard(
        "a connection does not end before its last call has come whole",
        CONNECTION,
        "if call.more_body and comes and not self._deaf:",
        "if False:",
        f"{CONNECTIONS}test_a_refusal_reaches_who_reads_only_after_sending"
        "[Connection: close-/v1/embeddings-application/json-413]",
    ),
    Guard(
        "who asks first whether to send is not waited for",
        CONNECTION,
        "comes = self._body_bytes > 0 or not self.expect_100_continue",
        "comes = True",
        f"{CONNECTIONS}test_who_asks_first_whether_to_send_is_refused_and_closed_at_once",
    ),
    Guard(
        "who was cut is not listened to for long",
        CONNECTION,
        "            self.transport.pause_reading()",
        "            pass",
        f"{CONNECTIONS}{NOT_FOR_LONG}",
    ),
    Guard(
        "large answers are written one at a time",
        CALL,
        "await self.client.turns.answer(caller(request), len(made.items), self._left_s(request))",
        "pass",
        f"{CALLS}test_between_two_answers_of_many_items_the_loop_goes_round",
    ),
    Guard(
        "a long answer is written bit by bit",
        CALL,
        "if not is_much(made.items):",
        "if True:",
        f"{CALLS}test_while_a_long_answer_is_written_the_loop_goes_round",
    ),
    Guard(
        "bodies that arrive leave no holes in the heap",
        CALL,
        "if len(pieces[-1]) >= _PIECE:",
        "if False:",
        f"{CALLS}test_bodies_that_arrive_beside_each_other_hold_little_more_than_their_bytes",
    ),
    Guard(
        "a body has only so many values",
        "gateway/tally.py",
        "if opened > lists or commas > values:\n            message",
        "if opened > lists:\n            message",
        f"{CALLS}test_a_body_of_many_million_numbers_is_refused_before_anything_is_made_of_it",
    ),
    Guard(
        "a body nested without end is the caller's fault",
        CALL,
        "except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:",
        "except (msgspec.DecodeError, UnicodeDecodeError) as err:",
        f"{NO_JSON}[/v2/models/tiny/infer-deep parameters]",
    ),
    Guard(
        "a body that is no unicode is the caller's fault",
        CALL,
        "except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:",
        "except (msgspec.DecodeError, RecursionError) as err:",
        f"{NO_JSON}[/v1/embeddings-half a pair]",
    ),
    Guard(
        "a text is weighed before it is tokenised",
        "inference/client.py",
        "refused = self._engine.refusal(work)",
        "refused = None",
        "tests/inference/test_client.py::test_the_first_gate_refuses_before_tokenising",
    ),
    Guard(
        "a full disk harms no call",
        "gateway/logs.py",
        "suppress(OSError):\n            held",
        "suppress(KeyError):\n            held",
        "tests/gateway/test_logs.py::test_a_full_disk_harms_no_call",
    ),
    Guard(
        "log lines have no messages of exceptions",
        "gateway/logs.py",
        'return "\\n".join(_causes(ei[1]))',
        "return super().formatException(ei)",
        "tests/gateway/test_logs.py::test_an_error_is_told_by_its_classes_and_places_and_not_by_its_message[console]",
    ),
    Guard(
        "pickles and code beside the weights are refused",
        CHECKPOINT,
        "    if unsafe:\n",
        "    if False:\n",
        f"{FILES}test_files_that_can_run_code_are_refused[pytorch_model.bin]",
    ),
    Guard(
        "a suffix in capitals is one",
        CHECKPOINT,
        "file.suffix.lower() in _UNSAFE_SUFFIXES",
        "file.suffix in _UNSAFE_SUFFIXES",
        f"{FILES}test_files_that_can_run_code_are_refused[PYTORCH.BIN]",
    ),
    Guard(
        "configurations that name code are refused",
        CHECKPOINT,
        "is_code = key in _CODE_KEYS and value",
        "is_code = False",
        f"{FILES}test_configurations_that_name_code_are_refused[config.json-keys0]",
    ),
    Guard(
        "a kernel from a hub is refused",
        CHECKPOINT,
        'is_kernel = key.endswith("attn_implementation") and str(value) not in _ATTENTION',
        "is_kernel = False",
        f"{FILES}test_configurations_that_name_code_are_refused[config.json-keys2]",
    ),
)
