import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.config import Limits
from inference.cost import CostModel
from inference.lane import Lane
from inference.request import Batch, Entry, Report, packed_shape
from inference.scheduler import DeviceState, Refused, Scheduler, Work
from inference.waiting import AGING_S
from tests.fakes import entries, entry

CPU = DeviceState("cpu")
ONE, OTHER = DeviceState("cpu:0"), DeviceState("cpu:1")


def scheduler(
    *,
    budget: int = 32,
    waiting: int = 10_000,
    packed: bool = True,
    models: str = "m",
    batch_s: float = 1e3,
    lane: Lane | None = None,
    devices: int = 1,
) -> Scheduler:
    limits = Limits(max_batch_tokens=budget, max_waiting_tokens=waiting, latency_target_s=2 * batch_s)
    return Scheduler(limits, {name: lane or Lane(packed, taught_cost()) for name in models}, devices=devices)


def taught_cost() -> CostModel:
    """1 ms a token, nothing else."""
    cost = CostModel()
    for tokens in (1, 10, 100, 1000):
        for _ in range(50):
            cost.observe(packed_shape([tokens]), tokens / 1000)
    return cost


def taught_bytes() -> CostModel:
    """1 ms and 1 byte a token, nothing else."""
    cost = CostModel()
    for tokens in (1, 10, 100, 1000) * 50:
        cost.observe(packed_shape([tokens]), tokens / 1000, peak_bytes=tokens)
    return cost


def report(batch: Batch, *, error: str | None = None) -> Report:
    return Report(batch.model, len(batch.entries), batch.tokens, batch.shape.tokens, 0.0, batch.tokens / 1000, error)


def run_next(subject: Scheduler, now: float) -> Batch | None:
    batch = subject.decide(CPU, now).batch
    if batch is not None:
        subject.finished(batch, report(batch), now)
    return batch


def test_nothing_waits_so_there_is_nothing_to_do_and_no_time_to_wake_at() -> None:
    decision = scheduler().decide(CPU, 0.0)

    assert (decision.batch, decision.expired, decision.wake_at) == (None, (), None)


def test_entries_run_in_the_order_of_arrival() -> None:
    subject = scheduler(budget=16)
    calls = [entry(8, arrived=float(i)) for i in range(4)]
    for item in calls:
        subject.add([item], item.arrived)

    first, second = subject.decide(CPU, 4.0).batch, subject.decide(CPU, 4.0).batch

    assert first is not None and list(first.entries) == calls[:2]
    assert second is not None and list(second.entries) == calls[2:]


def test_all_that_waits_joins_up_to_the_budget() -> None:
    subject = scheduler(budget=32)
    waiting = [entry(8, arrived=float(i)) for i in range(5)]
    for item in waiting:
        subject.add([item], item.arrived)

    batch = subject.decide(CPU, 5.0).batch

    assert batch is not None and batch.tokens == 32


def test_a_long_text_does_not_close_the_batch_for_short_ones_behind_it() -> None:
    subject = scheduler(budget=32)
    head, long, short = entry(20), entry(30), entry(10)
    for item in (head, long, short):
        subject.add([item], 0.0)

    batch = subject.decide(CPU, 0.0).batch

    assert batch is not None and batch.entries == (head, short)


def test_a_text_larger_than_the_budget_runs_alone() -> None:
    subject = scheduler(budget=32)
    subject.add([entry(100)], 0.0)
    subject.add([entry(8)], 0.0)

    batch = subject.decide(CPU, 0.0).batch

    assert batch is not None and batch.shape == packed_shape([100])


def test_models_never_mix_and_the_oldest_goes_first() -> None:
    subject = scheduler(models="ab")
    subject.add([entry(8, model="b", arrived=0.0)], 0.0)
    subject.add([entry(8, model="a", arrived=1.0)], 1.0)

    first, second = subject.decide(CPU, 2.0).batch, subject.decide(CPU, 2.0).batch

    assert first is not None and first.model == "b"
    assert second is not None and second.model == "a"


def test_a_padded_batch_takes_the_neighbours_in_length() -> None:
    subject = scheduler(budget=1000, packed=False)
    head, *others = entries(10, 500, 11, 9, 300, 10)
    subject.add([head, *others], 0.0)

    batch = subject.decide(CPU, 0.0).batch

    assert batch is not None
    assert head in batch.entries
    assert max(item.tokens for item in batch.entries) <= 11


def test_a_padded_batch_counts_its_padding_against_the_budget() -> None:
    subject = scheduler(budget=40, packed=False)
    subject.add(entries(10, 10, 10, 10, 10), 0.0)

    batch = subject.decide(CPU, 0.0).batch

    assert batch is not None and batch.shape.tokens == 40


def test_a_late_entry_is_given_up_before_it_costs_device_time() -> None:
    subject = scheduler()
    late, early = entry(8, deadline=1.0), entry(8, deadline=50.0)
    subject.add([late], 0.0)
    subject.add([early], 0.0)

    decision = subject.decide(CPU, 2.0)

    assert decision.expired == (late,)
    assert decision.batch is not None and decision.batch.entries == (early,)


def test_when_all_have_expired_there_is_no_batch() -> None:
    subject = scheduler()
    late = entry(8, deadline=1.0)
    subject.add([late], 0.0)

    decision = subject.decide(CPU, 2.0)

    assert (decision.batch, decision.expired) == (None, (late,))


def test_a_cancelled_entry_never_runs() -> None:
    subject = scheduler()
    gone, stays = entry(8), entry(8)
    subject.add([gone], 0.0)
    subject.add([stays], 0.0)

    subject.cancel(gone)

    batch = subject.decide(CPU, 0.0).batch
    assert batch is not None and batch.entries == (stays,)
    assert subject.statistics(0.0).lanes[0].tokens == 0


def test_cancelling_what_runs_or_is_gone_changes_nothing() -> None:
    subject = scheduler()
    running = entry(8)
    subject.add([running], 0.0)
    batch = subject.decide(CPU, 0.0).batch

    subject.cancel(running)
    subject.cancel(running)

    assert batch is not None and batch.entries == (running,)


def test_an_idle_engine_tries_what_seems_hopeless_for_a_hundredth_of_its_time() -> None:
    subject = scheduler()

    def offer(now: float) -> Refused | None:
        refused = subject.add([entry(100, deadline=now + 0.001)], now)
        run_next(subject, now)
        return refused

    first, second, soon, later = offer(0.0), offer(1.0), offer(9.0), offer(11.0)

    assert (first, later) == (None, None)
    assert second is not None and second.reason == "deadline out of reach"
    assert second.retry_after_s == pytest.approx(0.099, rel=0.1)
    assert soon is not None


def test_an_idle_engine_refuses_nothing_that_can_be_in_time() -> None:
    subject = scheduler(waiting=10)
    for now in (0.0, 1.0, 2.0):
        assert subject.add([entry(100, deadline=now + 0.11)], now) is None
        run_next(subject, now)


def test_an_idle_engine_whose_cost_is_not_known_yet_refuses_nothing() -> None:
    subject = Scheduler(Limits(max_batch_tokens=32), {"m": Lane(True, CostModel())})

    for now in (0.0, 1e-3, 2e-3):
        assert subject.add([entry(100, deadline=now + 1e-6)], now) is None
        subject.decide(CPU, now + 1.0)


@given(st.integers(1, 400), st.floats(1e-3, 1.0), st.floats(0.0, 5.0))
def test_an_idle_engine_refuses_only_what_would_be_late_alone(tokens: int, timeout_s: float, now: float) -> None:
    subject = scheduler(budget=1000)
    subject.add([entry(1000, deadline=0.5)], 0.0)
    run_next(subject, 0.0)

    refused = subject.add([entry(tokens, deadline=now + timeout_s)], now)

    assert refused is None or tokens / 1000 > 0.9 * timeout_s


class Exact(Scheduler):
    """Takes nothing for safe."""

    def _is_safe(self, *work: object) -> bool:
        return False


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(1, 60)), max_size=30),
    st.booleans(),
    st.integers(1, 60),
    st.floats(0.01, 8.0),
)
def test_what_is_safe_behind_all_that_waits_is_in_time_where_it_would_stand(
    calls: list[tuple[str, str, int]], packed: bool, tokens: int, timeout_s: float
) -> None:
    limits = Limits(max_batch_tokens=64, max_waiting_tokens=600, latency_target_s=0.2)
    quick, exact = (kind(limits, {name: Lane(packed, taught_cost()) for name in "ab"}) for kind in (Scheduler, Exact))
    for model, caller, size in calls:
        for subject in (quick, exact):
            subject.add([entry(size, model=model, caller=caller, deadline=100.0)], 0.0)
    work = Work("a", packed_shape([tokens]), timeout_s, "x")

    assert quick.refusal(work, 0.0) == exact.refusal(work, 0.0)


def test_the_batch_that_runs_is_not_counted_as_one_to_be_formed() -> None:
    subject = scheduler(budget=100)
    subject.add([entry(100)], 0.0)
    subject.decide(CPU, 0.0)
    subject.add([entry(20)], 0.0)

    refused = subject.add([entry(10, deadline=0.135)], 0.0)

    assert refused is None


def test_of_more_than_one_batch_to_be_formed_half_a_full_one_is_added() -> None:
    packed, padded = scheduler(budget=100), scheduler(budget=100, packed=False)
    for subject in (packed, padded):
        for _ in range(10):
            subject.add([entry(10, deadline=0.11)], 0.0)

    refused = packed.add([entry(10, deadline=0.14)], 0.0)
    by_length = padded.add([entry(10, deadline=0.14)], 0.0)

    assert refused is not None
    assert by_length is None


def test_a_full_queue_refuses_the_whole_call_and_says_when_to_come_back() -> None:
    subject = scheduler(waiting=100)
    subject.add([entry(90)], 0.0)

    refused = subject.add(entries(5, 20), 0.0)

    assert refused is not None and refused.reason == "queue full"
    assert 0.0 < refused.retry_after_s <= 0.1
    assert subject.statistics(0.0).lanes[0].entries == 1


def test_a_call_that_would_end_after_its_deadline_is_refused_with_the_missing_time() -> None:
    subject = scheduler(budget=1000)
    subject.add([entry(500, deadline=0.39)], 0.0)

    refused = subject.add([entry(100, deadline=0.4)], 0.0)

    assert refused is not None and refused.reason == "deadline out of reach"
    assert refused.retry_after_s == pytest.approx(0.2, rel=0.1)


def test_work_that_runs_counts_until_its_predicted_end() -> None:
    subject = scheduler(budget=1000)
    subject.add([entry(500)], 0.0)
    subject.decide(CPU, 0.0)

    at_once = subject.add([entry(100, deadline=0.3)], 0.0)
    later = subject.add([entry(100, deadline=0.7)], 0.45)

    assert isinstance(at_once, Refused)
    assert later is None


def test_a_failed_batch_teaches_the_cost_model_nothing() -> None:
    subject = scheduler()
    subject.add([entry(8)], 0.0)
    batch = subject.decide(CPU, 0.0).batch
    assert batch is not None

    subject.finished(batch, report(batch, error="RuntimeFailed"), 0.0)

    subject.add([entry(8)], 0.0)
    again = subject.decide(CPU, 0.0).batch
    assert again is not None and again.predicted_s == batch.predicted_s


def test_statistics_tell_what_waits() -> None:
    subject = scheduler()
    subject.add(entries(8, 12, arrived=1.0), 1.0)

    lane = subject.statistics(3.0).lanes[0]

    assert (lane.model, lane.entries, lane.tokens, lane.oldest_s) == ("m", 2, 20, 2.0)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(1, 60), min_size=1, max_size=6), st.floats(0.0, 3.0)),
        st.tuples(st.just("run"), st.just([]), st.just(0.0)),
        st.tuples(st.just("cancel"), st.just([]), st.just(0.0)),
        st.tuples(st.just("wait"), st.just([]), st.floats(0.0, 1.0)),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(steps, st.booleans(), st.randoms(use_true_random=False))
def test_nobody_is_lost_nobody_runs_twice_and_no_batch_is_over_budget(
    script: list[tuple[str, list[int], float]], packed: bool, chance: random.Random
) -> None:
    subject, now = scheduler(budget=64, waiting=500, packed=packed, models="ab"), 0.0
    admitted: list[Entry] = []
    ended: list[Entry] = []

    def step() -> bool:
        decision = subject.decide(CPU, now)
        ended.extend(decision.expired)
        if decision.batch is not None:
            batch = decision.batch
            assert len({item.model for item in batch.entries}) == 1
            assert batch.shape.tokens <= 64 or len(batch.entries) == 1
            ended.extend(batch.entries)
            subject.finished(batch, report(batch), now)
        return decision.batch is not None or bool(decision.expired)

    for what, lengths, number in script:
        if what == "add":
            call = entries(*lengths, model=chance.choice("ab"), arrived=now, deadline=now + number)
            admitted += call if subject.add(call, now) is None else []
        elif what == "run":
            step()
        elif what == "cancel" and len(ended) < len(admitted):
            gone = chance.choice([item for item in admitted if item not in ended])
            subject.cancel(gone)
            ended.append(gone)
        else:
            now += number
    while step():
        pass

    assert len(ended) == len(set(ended))
    assert set(ended) == set(admitted)
    assert all(lane.entries == lane.tokens == 0 for lane in subject.statistics(now).lanes)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=40), st.booleans())
def test_the_oldest_is_in_every_next_batch_whatever_keeps_arriving(lengths: list[int], packed: bool) -> None:
    subject = scheduler(budget=64, waiting=100_000, packed=packed)
    for now, length in enumerate(lengths):
        subject.add([entry(length, arrived=float(now))], float(now))

    waiting = list(range(len(lengths)))
    while (batch := run_next(subject, float(len(lengths)))) is not None:
        arrived = sorted(int(item.arrived) for item in batch.entries)

        assert arrived[0] == waiting[0]
        waiting = [moment for moment in waiting if moment not in arrived]


def test_a_batch_keeps_its_own_time_under_the_cap() -> None:
    subject = scheduler(budget=10_000, batch_s=0.05)
    subject.add(entries(*[10] * 20), 0.0)

    batch = subject.decide(CPU, 0.0).batch

    assert batch is not None and batch.tokens == 50


def test_one_text_may_take_longer_than_the_cap() -> None:
    subject = scheduler(budget=10_000, batch_s=0.05)
    subject.add([entry(100)], 0.0)

    assert run_next(subject, 0.0) is not None


def test_a_light_caller_runs_in_the_next_batch_beside_one_that_floods() -> None:
    subject = scheduler(budget=64, waiting=100_000)
    for _ in range(50):
        subject.add(entries(*[16] * 20, caller="flood"), 0.0)
    run_next(subject, 0.0)
    light = entry(16, caller="light", arrived=1.0)

    refused = subject.add([light], 1.0)
    batch = subject.decide(CPU, 1.0).batch

    assert refused is None
    assert batch is not None and light in batch.entries


def test_a_flood_does_not_lock_others_out_of_the_queue() -> None:
    subject = scheduler(waiting=1000)
    while subject.add(entries(10, 10, caller="flood"), 0.0) is None:
        pass

    light = subject.add(entries(10, 10, caller="light"), 0.0)
    flood = subject.add([entry(1, caller="flood")], 0.0)

    assert light is None
    assert flood is not None and flood.reason == "queue full"


def test_admission_counts_only_what_runs_before_a_fair_turn() -> None:
    subject = scheduler(waiting=100_000)
    for _ in range(100):
        subject.add(entries(*[10] * 10, caller="flood"), 0.0)

    light = subject.add([entry(10, caller="light", deadline=0.5)], 0.0)
    flood = subject.add([entry(10, caller="flood", deadline=1e6 + 1)], 0.0)
    hurried = subject.add([entry(10, caller="flood", deadline=0.001)], 0.0)

    assert light is None
    assert flood is None
    assert hurried is not None and hurried.reason == "deadline out of reach"


def test_memory_that_ran_out_lowers_the_cap_fast_and_raises_it_slowly() -> None:
    subject = scheduler(budget=1000)

    def next_tokens(error: str | None) -> int:
        subject.add(entries(*[10] * 100), 0.0)
        batch = subject.decide(CPU, 0.0).batch
        assert batch is not None
        subject.finished(batch, report(batch, error=error), 0.0)
        return batch.tokens

    sizes = [next_tokens("OutOfMemory"), next_tokens(None), next_tokens(None)]
    later = [next_tokens(None) for _ in range(100)]

    assert sizes[0] == 1000
    assert sizes[1] == 700
    assert 700 <= sizes[2] <= 710
    assert later[-1] == 1000


def test_a_batch_that_failed_is_split_into_halves_without_what_is_late() -> None:
    subject = scheduler(budget=1000)
    subject.add(entries(10, 10, 10), 0.0)
    late = entry(10, deadline=5.0)
    subject.add([late], 0.0)
    batch = subject.decide(CPU, 0.0).batch
    assert batch is not None and late in batch.entries
    subject.finished(batch, report(batch, error="RuntimeFailed"), 6.0)

    halves, given_up = subject.split(batch, 6.0)

    assert sorted(len(half.entries) for half in halves) == [1, 2]
    assert given_up == [late]
    assert not subject.holds(late)
    assert all(subject.holds(item) for half in halves for item in half.entries)


def test_models_take_turns_by_the_device_time_they_got() -> None:
    subject = scheduler(budget=100, models="ab", waiting=100_000)
    subject.add(entries(*[100] * 10, model="a"), 0.0)
    subject.add(entries(*[10] * 100, model="b"), 0.0)

    turns = [batch.model for _ in range(10) if (batch := run_next(subject, 0.0)) is not None]

    assert all(abs(turns[:count].count("a") - turns[:count].count("b")) <= 1 for count in range(11))


def test_a_batch_does_not_wait_for_what_it_cannot_answer_in_time() -> None:
    subject = scheduler(budget=100)
    soon = entries(*[10] * 5, deadline=0.08)
    subject.add(soon, 0.0)
    later = entries(*[10] * 20, deadline=50.0)
    subject.add(later, 0.0)

    decision = subject.decide(CPU, 0.0)

    assert set(decision.expired) == set(soon)
    assert decision.batch is not None and set(decision.batch.entries) <= set(later)


def test_what_is_admitted_is_not_given_up_by_the_next_decision() -> None:
    for deadline in (0.01, 0.05, 0.09, 0.11, 0.2):
        subject = scheduler(budget=100, waiting=100_000)
        subject.add(entries(*[10] * 50, caller="flood"), 0.0)
        hurried = entry(8, caller="light", deadline=deadline)

        refused = subject.add([hurried], 0.0)

        assert (refused is not None) or hurried not in subject.decide(CPU, 0.0).expired


def test_the_last_one_left_runs_though_it_seems_too_late_so_that_the_cost_is_learned() -> None:
    subject = scheduler()
    hurried = entry(100, deadline=0.05)
    subject.add([hurried], 0.0)

    decision = subject.decide(CPU, 0.0)

    assert decision.batch is not None and decision.batch.entries == (hurried,)


def test_no_number_of_callers_gets_more_than_twice_the_queue() -> None:
    subject = scheduler(waiting=1000)

    for number in range(20):  # each takes its whole share
        while subject.add([entry(10, caller=str(number))], 0.0) is None:
            pass

    assert subject.statistics(0.0).lanes[0].tokens <= 2000


def test_small_batches_do_not_raise_the_cap_on_memory() -> None:
    subject = scheduler(budget=1000)
    subject.add(entries(*[10] * 100), 0.0)
    batch = subject.decide(CPU, 0.0).batch
    assert batch is not None
    subject.finished(batch, report(batch, error="OutOfMemory"), 0.0)
    for _ in range(100):
        subject.add([entry(3)], 0.0)
        run_next(subject, 0.0)

    subject.add(entries(*[10] * 100), 0.0)
    after = subject.decide(CPU, 0.0).batch

    assert after is not None and after.tokens == 700


def test_an_entry_is_held_while_it_waits_or_runs() -> None:
    subject = scheduler()
    one, two, three = entry(8), entry(8), entry(8)
    for item in (one, two, three):
        subject.add([item], 0.0)
    subject.cancel(three)
    batch = subject.decide(CPU, 0.0).batch
    assert batch is not None

    running = [subject.holds(item) for item in (one, two, three)]
    subject.finished(batch, report(batch), 0.0)

    assert running == [True, True, False]
    assert not any(subject.holds(item) for item in (one, two, three))


def test_the_most_urgent_class_of_all_models_runs_first() -> None:
    subject = scheduler(models="ab", waiting=100_000)
    subject.add(entries(*[32] * 4, model="a", arrived=0.0), 0.0)
    subject.add(entries(*[32] * 4, model="b", arrived=1.0, priority=1), 1.0)

    turns = [batch.model for _ in range(8) if (batch := run_next(subject, 1.0)) is not None]

    assert turns == ["b"] * 4 + ["a"] * 4


def test_a_lower_class_of_another_model_ages_past_a_busy_higher_one() -> None:
    subject = scheduler(models="ab", waiting=100_000)
    subject.add([entry(8, model="a", arrived=0.0)], 0.0)
    subject.add(entries(*[32] * 4, model="b", arrived=AGING_S + 0.1, priority=1), AGING_S + 0.1)

    batch = run_next(subject, AGING_S + 0.1)

    assert batch is not None and batch.model == "a"


def test_turns_in_a_higher_class_are_not_held_against_a_model_in_a_lower_one() -> None:
    subject = scheduler(models="ab", waiting=100_000)
    subject.add(entries(*[32] * 20, model="a", priority=1), 0.0)
    while run_next(subject, 0.0) is not None:
        pass
    subject.add(entries(*[32] * 4, model="a"), 0.0)
    subject.add(entries(*[32] * 4, model="b"), 0.0)

    turns = [batch.model for _ in range(8) if (batch := run_next(subject, 0.0)) is not None]

    assert all(abs(turns[:count].count("a") - turns[:count].count("b")) <= 1 for count in range(9))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-1, 1), st.integers(1, 30)), max_size=40), st.booleans())
def test_while_a_higher_class_waits_for_any_model_its_batches_are_headed_by_it(
    calls: list[tuple[str, int, int]], packed: bool
) -> None:
    subject, waiting = scheduler(models="abc", packed=packed, waiting=100_000), set[Entry]()
    for model, priority, tokens in calls:
        item = entry(tokens, model=model, priority=priority)
        subject.add([item], 0.0)
        waiting.add(item)

    while (batch := run_next(subject, 0.0)) is not None:
        highest = max(item.call.priority for item in waiting)

        assert max(item.call.priority for item in batch.entries) == highest
        waiting.difference_update(batch.entries)
    assert not waiting


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60), st.integers(64, 2000))
def test_a_batch_is_never_predicted_to_need_more_bytes_than_are_free(lengths: list[int], free_bytes: int) -> None:
    subject = scheduler(budget=100_000, lane=Lane(True, taught_bytes()))
    subject.add(entries(*lengths), 0.0)

    while (batch := subject.decide(DeviceState("gpu", free_bytes), 0.0).batch) is not None:
        assert batch.tokens <= free_bytes or len(batch.entries) == 1
        subject.finished(batch, report(batch), 0.0)


def test_where_bytes_are_told_and_free_ones_known_a_batch_is_cut_to_them() -> None:
    subject = scheduler(budget=1000, lane=Lane(True, taught_bytes()))
    subject.add(entries(*[10] * 100), 0.0)

    with_room_for_some = subject.decide(DeviceState("gpu", free_bytes=505), 0.0).batch
    without_a_word = subject.decide(CPU, 0.0).batch

    assert with_room_for_some is not None and 400 <= with_room_for_some.tokens <= 500
    assert without_a_word is not None and without_a_word.tokens == 1000 - with_room_for_some.tokens


def test_what_batches_allocated_is_learned_from_their_reports() -> None:
    subject = scheduler(budget=1000)
    for length in (10, 100, 1000) * 20:
        subject.add([entry(length)], 0.0)
        batch = subject.decide(CPU, 0.0).batch
        assert batch is not None
        subject.finished(batch, replace(report(batch), peak_bytes=100 * length), 0.0)
    subject.add(entries(*[10] * 100), 0.0)

    batch = subject.decide(DeviceState("gpu", free_bytes=50_000), 0.0).batch

    assert batch is not None and batch.tokens < 510


def test_a_second_call_gives_an_entry_it_joins_its_own_better_rank() -> None:
    subject = scheduler(budget=100, waiting=100_000)
    large = entries(*[10] * 50, deadline=1e4)
    subject.add(large, 0.0)
    joined = large[40:42]

    subject.hasten(joined, 1e4)
    batch = subject.decide(CPU, 0.0).batch

    assert batch is not None and set(joined) < set(batch.entries)


def test_who_runs_or_is_gone_cannot_be_hastened() -> None:
    subject = scheduler(budget=10)
    first, gone = entry(10), entry(10)
    subject.add([first], 0.0)
    subject.add([gone], 0.0)
    subject.decide(CPU, 0.0)
    subject.cancel(gone)

    subject.hasten([first, gone], 0.0)

    assert subject.decide(CPU, 0.0).batch is None


def test_two_versions_of_a_model_are_told_as_one() -> None:
    subject = Scheduler(Limits(max_batch_tokens=100), {"m": Lane(packed=True, cost=CostModel())})
    subject.open("m@2", Lane(packed=True, cost=CostModel()))
    subject.add(entries(10, model="m", arrived=1.0), 1.0)
    subject.add(entries(20, 30, model="m@2", arrived=2.0), 2.0)

    [told] = subject.statistics(3.0).lanes

    assert (told.model, told.entries, told.tokens, told.oldest_s) == ("m", 3, 60, 2.0)


def test_a_model_is_busy_until_its_last_batch_has_ended_and_then_forgotten() -> None:
    subject = Scheduler(Limits(max_batch_tokens=100), {"m": Lane(packed=True, cost=CostModel())})
    subject.open("n", Lane(packed=True, cost=CostModel()))
    subject.add(entries(10, model="n"), 0.0)
    waiting = subject.is_busy("n")
    batch = subject.decide(DeviceState("cpu"), 0.0).batch
    assert batch is not None
    running = subject.is_busy("n")
    subject.finished(batch, Report("n", 1, 10, 10, 0.1, 0.1), 1.0)

    assert (waiting, running, subject.is_busy("n"), subject.is_busy("m")) == (True, True, False, False)
    subject.close("n")
    assert [lane.model for lane in subject.statistics(1.0).lanes] == ["m"]


def running(*tokens: int, budget: int = 1000) -> Scheduler:
    """Two devices, each with a batch of so many milliseconds, or free."""
    subject = scheduler(budget=budget, devices=2)
    for device, count in zip((ONE, OTHER), tokens, strict=False):
        subject.add([entry(count)], 0.0)
        batch = subject.decide(device, 0.0).batch
        assert batch is not None and batch.device == device.name
    return subject


def test_a_call_is_admitted_behind_the_device_that_frees_first() -> None:
    subject = running(300, 100)

    refused = subject.refusal(Work("m", packed_shape([50]), 0.140), 0.0)

    assert subject.refusal(Work("m", packed_shape([50]), 0.160), 0.0) is None
    assert refused is not None and refused.retry_after_s == pytest.approx(0.010, abs=0.005)


def test_what_waits_is_shared_by_the_devices() -> None:
    subject = running(100, 100, budget=100)
    for _ in range(4):
        assert subject.add([entry(100, deadline=0.41)], 0.0) is None
    work = packed_shape([100])

    # 0.1 s of what runs, 0.4 s that two share, itself, and half a batch for the rounding.
    assert subject.refusal(Work("m", work, 0.48), 0.0) is None
    assert subject.refusal(Work("m", work, 0.42), 0.0) is not None


def test_work_shared_by_devices_that_free_at_different_moments_fills_the_first_up_to_the_second() -> None:
    subject = running(100, 1000, budget=100)
    for _ in range(4):
        assert subject.add([entry(100, deadline=0.61)], 0.0) is None
    work = packed_shape([100])

    # All of it goes to the first, which has ended it long before the second is free.
    assert subject.refusal(Work("m", work, 0.68), 0.0) is None
    assert subject.refusal(Work("m", work, 0.62), 0.0) is not None


def test_a_large_call_is_shared_by_the_devices_and_a_single_text_by_none() -> None:
    subject = scheduler(budget=100, devices=2)
    subject.add([entry(50)], 0.0)
    many, single = packed_shape([50] * 16), packed_shape([800])

    assert subject.refusal(Work("m", many, 0.55), 0.0) is None
    assert subject.refusal(Work("m", many, 0.35), 0.0) is not None
    assert subject.refusal(Work("m", single, 0.75), 0.0) is not None


def test_a_free_device_beside_one_that_runs_takes_what_it_can_answer_in_time() -> None:
    subject = running(500)

    # A prediction may be too high by the p95 of the errors: only a device that is free may find that out.
    assert subject.refusal(Work("m", packed_shape([100]), 0.09), 0.0) is None


def test_the_halves_of_a_failed_batch_stay_with_their_device_and_count_as_its_work() -> None:
    subject = scheduler(budget=200, devices=2)
    halves = []
    for device in (ONE, OTHER):
        subject.add(entries(100, 100), 0.0)
        batch = subject.decide(device, 0.0).batch
        assert batch is not None
        subject.finished(batch, report(batch, error="RuntimeFailed"), 0.0)
        halves += subject.split(batch, 0.0)[0]

    assert [half.device for half in halves] == [ONE.name] * 2 + [OTHER.name] * 2
    assert subject.refusal(Work("m", packed_shape([100]), 0.31), 0.0) is None
    assert subject.refusal(Work("m", packed_shape([100]), 0.29), 0.0) is not None


works = st.lists(st.integers(1, 60), min_size=1, max_size=30)


@given(works, works, st.floats(0.001, 2.0), st.integers(1, 4))
def test_one_more_device_never_refuses_what_fewer_would_take(
    waits: list[int], wanted: list[int], deadline: float, devices: int
) -> None:
    fewer, more = (scheduler(budget=64, devices=count) for count in (devices, devices + 1))
    for subject in (fewer, more):
        subject.add(entries(*waits), 0.0)

    now, then = (subject.refusal(Work("m", packed_shape(wanted), deadline), 0.0) for subject in (fewer, more))

    assert then is None or (now is not None and then.retry_after_s <= now.retry_after_s + 1e-9)


acts = st.lists(st.tuples(st.sampled_from(["add", "take", "end", "fail", "cancel"]), st.integers(0, 2)), max_size=80)


@settings(max_examples=200)
@given(acts, st.randoms(use_true_random=False))
def test_over_several_devices_nobody_is_lost_nobody_runs_on_two_and_each_has_one_batch_at_a_time(
    script: list[tuple[str, int]], chance: random.Random
) -> None:
    subject = scheduler(budget=64, waiting=5000, devices=3)
    places = [DeviceState(f"cpu:{number}") for number in range(3)]
    has: list[list[Batch]] = [[], [], []]  # what each device has, the next to run last
    admitted: set[Entry] = set()
    ended: list[Entry] = []
    gone: set[Entry] = set()

    def take(place: int) -> None:
        batch = subject.decide(places[place], 0.0).batch if not has[place] else None
        if batch is not None:
            taken = {item for parts in has for part in parts for item in part.entries}
            assert batch.device == places[place].name
            assert not taken & set(batch.entries)
            has[place] = [batch]

    def end(place: int, *, fails: bool) -> None:
        batch = has[place].pop()
        fails = fails and len(batch.entries) > 1
        subject.finished(batch, report(batch, error="RuntimeFailed" if fails else None), 0.0)
        if fails:
            has[place] += reversed(subject.split(batch, 0.0)[0])
        else:
            ended.extend(item for item in batch.entries if item not in gone)

    for what, place in script:
        if what == "add":
            call = entries(*(chance.randint(1, 60) for _ in range(chance.randint(1, 6))), deadline=1e6)
            admitted |= set(call) if subject.add(call, 0.0) is None else set()
        elif what == "take":
            take(place)
        elif what in ("end", "fail") and has[place]:
            end(place, fails=what == "fail")
        elif what == "cancel" and (alive := sorted(admitted - gone - set(ended), key=lambda item: item.arrived)):
            subject.cancel(chance.choice(alive))
            gone = gone | {item for item in alive if not subject.holds(item)}
    while subject.is_busy("m"):
        for place in range(3):
            take(place)
            if has[place]:
                end(place, fails=False)

    assert len(ended) == len(set(ended))
    assert set(ended) == admitted - gone
