"""The guards of access: keys, rights, limits, and files that change."""

from tests.controls.guard import Guard

ACCESS = "gateway/access.py"
KEYRING = "gateway/keyring.py"
KEYFILE = "gateway/keyfile.py"
CALL = "gateway/call.py"
ALLOWANCE = "gateway/allowance.py"
WATCHED = "gateway/watched.py"
TLS = "gateway/tls.py"
SHARED = "gateway/shared_allowance.py"
TOKENS = "gateway/tokens.py"
JWKS = "gateway/jwks.py"
T = "tests/gateway/test_"

GUARDS = (
    Guard(
        "a call needs a key",
        ACCESS,
        "if caller is None:",
        "if caller is None:\n            return await self._app(scope, receive, send)\n        if caller is None:",
        f"{T}access.py::test_without_a_valid_key_every_call_gets_one_constant_answer",
    ),
    Guard(
        "open paths are whole paths",
        ACCESS,
        'scope["path"] in self._open',
        'scope["path"].startswith(tuple(self._open))',
        f"{T}access.py::test_every_path_needs_a_key_but_those_of_the_probes",
    ),
    Guard(
        "a key is compared as a whole",
        KEYRING,
        "if held is None or not same or self._now() >= held.ends:",
        "if held is None or self._now() >= held.ends:",
        f"{T}keyring.py::test_nothing_but_the_whole_key_opens",
    ),
    Guard(
        "a key expires",
        KEYRING,
        "if held is None or not same or self._now() >= held.ends:",
        "if held is None or not same:",
        f"{T}keyring.py::test_a_key_opens_until_it_expires",
    ),
    Guard(
        "a file of keys is changed by one at a time",
        KEYFILE,
        "fcntl.flock(folder, fcntl.LOCK_EX)",
        "pass",
        f"{T}keyfile.py::test_several_who_make_keys_at_once_lose_none",
    ),
    Guard(
        "a file that cannot be written leaves nothing behind",
        KEYFILE,
        "undo.callback(os.unlink, made)",
        "pass",
        f"{T}keyfile.py::test_a_file_that_cannot_be_written_stays_as_it_was",
    ),
    Guard(
        "a model is its caller's",
        CALL,
        "if who is not None and not who.may_use(name):",
        "if False:",
        f"{T}access.py::test_a_caller_may_use_its_models_and_does_not_learn_of_others[GET-/v2/models/{{}}-None]",
    ),
    Guard(
        "errors name the models of their caller",
        CALL,
        "return self.client.model_for(name, ability, models)",
        "return self.client.model_for(name, ability)",
        f"{T}access.py::test_errors_name_only_the_models_that_their_caller_may_use",
    ),
    Guard(
        "a model that is not its caller's is not said to be there",
        CALL,
        "check_model(who, name)  # whether",
        "pass  # whether",
        f"{T}access.py::test_a_caller_may_use_its_models_and_does_not_learn_of_others[GET-/v2/models/{{}}-None]",
    ),
    Guard(
        "a task is its caller's",
        CALL,
        "if who is not None and not who.may_ask(ability):",
        "if False:",
        f"{T}access.py::test_a_caller_may_ask_for_its_tasks",
    ),
    Guard(
        "a dialect is its caller's",
        ACCESS,
        "if exchange.caller is None or exchange.caller.may_speak(self._dialect):",
        "if True:",
        f"{T}access.py::test_a_caller_may_call_in_its_dialects_also_where_two_share_a_path",
    ),
    Guard(
        "nobody is an admin without a key",
        ACCESS,
        "return caller is not None and caller.grant.admin",
        "return caller is None or caller.grant.admin",
        f"{T}audit.py::test_nobody_is_an_admin_without_keys",
    ),
    Guard(
        "a limit refuses",
        ACCESS,
        "if refused is not None:",
        "if False:",
        f"{T}access.py::test_calls_over_a_limit_are_refused_with_the_time_to_wait_and_what_is_left",
    ),
    Guard(
        "a place is given back whatever happens",
        ALLOWANCE,
        "            self._in_flight -= 1\n",
        "            pass\n",
        f"{T}allowance.py::test_calls_at_once_are_counted_while_they_last_and_given_back_whatever_happens",
    ),
    Guard(
        "a changed grant wins nothing back",
        ALLOWANCE,
        "if grant.tokens_per_s != self.grant.tokens_per_s:",
        "self._today = 0\n        if grant.tokens_per_s != self.grant.tokens_per_s:",
        f"{T}allowance.py::test_a_changed_grant_keeps_what_was_used_of_limits_that_stay",
    ),
    Guard(
        "a broken file changes nothing",
        WATCHED,
        "        except Unreadable as err:\n",
        "        except ZeroDivisionError as err:\n",
        f"{T}watched.py::test_what_cannot_be_read_changes_nothing_and_is_told_once[broken]",
    ),
    Guard(
        "a flood without keys does not fill the disk",
        "gateway/audit.py",
        "if self._strangers.level(self._clock()) < 1:",
        "if False:",
        f"{T}audit.py::test_a_flood_without_a_key_writes_few_lines_and_their_number",
    ),
    Guard(
        "a new certificate is shown",
        TLS,
        "connection.context = newest.current()",
        "pass",
        f"{T}tls.py::test_a_new_certificate_is_shown_without_a_restart",
    ),
    Guard(
        "callers must show a certificate",
        TLS,
        "context.verify_mode = ssl.CERT_REQUIRED",
        "pass",
        f"{T}tls.py::test_callers_must_show_a_certificate_of_the_right_authority",
    ),
    Guard(
        "a token ends though it is remembered",
        TOKENS,
        "if self._now() >= known.ends:",
        "if False:",
        f"{T}tokens.py::test_a_token_that_was_good_is_not_checked_again_until_it_ends",
    ),
    Guard(
        "a token of a key that is withdrawn is checked again",
        TOKENS,
        "self._keys.held(known.kid) is not known.key",
        "False",
        f"{T}tokens.py::test_tokens_of_a_key_that_is_withdrawn_open_nothing_though_they_were_remembered",
    ),
    Guard(
        "unknown ids do not make questions without end",
        JWKS,
        "self._fetching is None and now >= self._again_at",
        "self._fetching is None",
        f"{T}jwks.py::test_ids_that_nobody_has_make_one_question_in_ten_seconds",
    ),
    Guard(
        "a document is read only so far",
        JWKS,
        "len(content) > _LARGEST_BYTES",
        "False",
        f"{T}jwks.py::test_a_document_without_end_is_not_read_to_its_end",
    ),
    Guard(
        "a Redis that is away is left alone for a second",
        SHARED,
        "if self._clock() < self._ask_at:",
        "if False:",
        f"{T}shared_allowance.py::test_when_redis_is_away_nobody_waits_for_it_and_it_is_asked_again_a_second_later[killed]",
    ),
    Guard(
        "a place is given back in Redis too",
        SHARED,
        "redis.call('ZREM', KEYS[2], lease)\n",
        "\n",
        f"{T}shared_allowance.py::test_calls_at_once_are_those_of_all_replicas_and_are_given_back",
    ),
)
