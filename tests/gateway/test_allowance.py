import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.allowance import DAY_S, Account, Accounts, Bucket, Now, Refused, Standing, fields, standings
from gateway.caller import Caller, Grant


class Subject:
    """An account, and the clock that it lives by."""

    def __init__(self, wall_s: float = 0.0, **limits: float) -> None:
        self.now = Now(0.0, wall_s)
        self.account = Account(Grant(**limits), self.now)

    def pass_s(self, seconds: float) -> None:
        self.now = Now(self.now.running_s + seconds, self.now.wall_s + seconds)

    def refusal(self) -> Refused | None:
        return self.account.refusal(self.now)

    def standings(self) -> list[Standing]:
        return standings(self.account.grant, self.account.left(self.now), self.now)

    def call(self, tokens: int = 0, lasts_s: float = 0.0) -> None:
        with self.account.call(lambda: self.now, lambda: tokens):
            self.pass_s(lasts_s)

    def calls(self, tokens: int = 0) -> int:
        """How many calls pass until one is refused."""
        made = 0
        while self.refusal() is None and made < 1000:
            self.call(tokens)
            made += 1
        return made


def test_without_limits_nothing_is_refused() -> None:
    assert Subject().calls(10**9) == 1000


@pytest.mark.parametrize(("per_s", "burst"), [(10.0, 10), (0.5, 1), (1.0, 1)])
def test_calls_a_second_come_as_a_second_s_worth_or_one_at_once(per_s: float, burst: int) -> None:
    subject = Subject(requests_per_s=per_s)

    at_once = subject.calls()
    refused = subject.refusal()
    subject.pass_s(1 / per_s)

    assert at_once == burst
    assert refused == Refused("caller_requests", pytest.approx(1 / per_s))
    assert subject.calls() == 1


def test_tokens_are_charged_when_they_are_known_and_a_debt_is_waited_for() -> None:
    subject = Subject(tokens_per_s=100.0)

    subject.call(tokens=350)

    assert subject.refusal() == Refused("caller_tokens", pytest.approx(2.51))
    subject.pass_s(2.52)
    assert subject.refusal() is None


def test_a_quota_is_for_a_day_of_utc() -> None:
    subject = Subject(wall_s=3 * DAY_S - 60.0, tokens_per_day=1000)

    subject.call(tokens=999)
    open_still = subject.refusal()
    subject.call(tokens=999)
    used_up = subject.refusal()
    subject.pass_s(61)

    assert open_still is None
    assert used_up == Refused("caller_quota", 60.0)
    assert subject.refusal() is None


def test_calls_at_once_are_counted_while_they_last_and_given_back_whatever_happens() -> None:
    subject = Subject(in_flight=2)

    def fails() -> None:
        with subject.account.call(lambda: subject.now, lambda: 0):
            full.append(subject.refusal())
            raise ZeroDivisionError

    full: list[Refused | None] = []
    with subject.account.call(lambda: subject.now, lambda: 0):
        with pytest.raises(ZeroDivisionError):
            fails()
        freed = subject.refusal()

    assert [each and each.reason for each in full] == ["caller_in_flight"]
    assert freed is None


def test_when_to_come_back_to_a_full_house_is_learned_from_how_long_calls_last() -> None:
    subject = Subject(in_flight=1)
    for _ in range(50):
        subject.call(lasts_s=0.2)

    with subject.account.call(lambda: subject.now, lambda: 0):
        refused = subject.refusal()

    assert refused == Refused("caller_in_flight", pytest.approx(0.2, rel=0.01))


def test_of_several_limits_the_longest_wait_is_told() -> None:
    subject = Subject(requests_per_s=1.0, tokens_per_s=10.0)

    subject.call(tokens=1000)

    assert subject.refusal() == Refused("caller_tokens", pytest.approx(99.1))


def test_what_is_refused_costs_nothing() -> None:
    subject = Subject(requests_per_s=1.0)
    subject.call()

    for _ in range(100):
        subject.refusal()
    subject.pass_s(1)

    assert subject.refusal() is None


def test_a_changed_grant_keeps_what_was_used_of_limits_that_stay() -> None:
    now, accounts = Now(0.0, 0.0), Accounts()
    account = accounts.of(Caller("a", "1", Grant(tokens_per_day=10, requests_per_s=1.0)), now)
    with account.call(lambda: now, lambda: 10):
        pass

    account = accounts.of(Caller("a", "2", Grant(tokens_per_day=10, requests_per_s=5.0)), now)

    assert account.refusal(now) == Refused("caller_quota", DAY_S)
    assert (account.left(now).calls, account.left(now).today) == (5.0, 0)


def test_callers_do_not_share_and_keys_of_one_caller_do() -> None:
    now, accounts, grant = Now(0.0, 0.0), Accounts(), Grant(requests_per_s=1.0)
    with accounts.of(Caller("a", "1", grant), now).call(lambda: now, lambda: 0):
        pass

    assert accounts.of(Caller("a", "2", grant), now).refusal(now) is not None
    assert accounts.of(Caller("b", "3", grant), now).refusal(now) is None


def test_the_header_fields_are_those_of_the_draft() -> None:
    subject = Subject(requests_per_s=2.0, tokens_per_s=100.0, tokens_per_day=1000, in_flight=4)
    subject.call(tokens=150)

    found = dict(fields(subject.standings()))

    assert found == {
        b"ratelimit-policy": b'"requests";q=2;w=1, "tokens";q=100;w=1, "day";q=1000;w=86400, '
        b'"in-flight";q=4;qu="concurrent-requests"',
        b"ratelimit": b'"requests";r=1;t=1, "tokens";r=0;t=2, "day";r=850;t=86400, "in-flight";r=4',
    }


@given(st.floats(0.01, 1000), st.lists(st.tuples(st.floats(0, 10), st.floats(0, 100)), max_size=30))
def test_a_bucket_never_gives_more_than_it_is_and_what_trickles_in(
    per_s: float, spendings: list[tuple[float, float]]
) -> None:
    bucket, now_s, spent = Bucket(per_s, 0.0), 0.0, 0.0

    for pause_s, wanted in spendings:
        now_s += pause_s
        amount = min(wanted, max(0.0, bucket.level(now_s)))
        bucket.spend(amount, now_s)
        spent += amount

    assert spent <= bucket.size + per_s * now_s + 1e-6
    assert bucket.level(now_s + bucket.wait_s(bucket.size, now_s)) == pytest.approx(bucket.size)


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 500)), max_size=30),
    st.builds(
        Grant,
        requests_per_s=st.none() | st.floats(0.1, 50),
        tokens_per_s=st.none() | st.floats(0.1, 500),
        tokens_per_day=st.none() | st.integers(1, 1000),
    ),
)
def test_whoever_waits_as_long_as_told_is_not_refused_again(calls: list[tuple[float, int]], grant: Grant) -> None:
    now = Now(0.0, 1e9)
    account = Account(grant, now)

    for pause_s, tokens in calls:
        now = Now(now.running_s + pause_s, now.wall_s + pause_s)
        refused = account.refusal(now)
        wait_s = 0.0 if refused is None else refused.retry_after_s + 1e-3
        now = Now(now.running_s + wait_s, now.wall_s + wait_s)
        assert account.refusal(now) is None
        with account.call(lambda at=now: at, lambda cost=tokens: cost):
            pass
        assert all(
            re.fullmatch(rb"[\x20-\x7e]*", value) for _, value in fields(standings(grant, account.left(now), now))
        )
