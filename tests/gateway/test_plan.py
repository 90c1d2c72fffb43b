import msgspec
import pytest

from gateway.plan import BadFile, Wish, read_profile, read_trace, recommend, replica, summary
from inference import Profile
from inference.cost import Curve
from inference.profile import Capacity

WISH = Wish(target_s=0.1)


def profile(model: str = "m", *, base_s: float = 0.006, token_s: float = 2e-6, budget: int = 16384) -> Profile:
    curve = Curve(base_s, token_s, 0.0, 0.0)
    return Profile(model, curve, budget, 0.05, 0.1, (Capacity(16, 100, 0.01, 1000.0),))


def trace(*rows: str, head: str = "seconds,texts_per_second,tokens_per_text") -> str:
    return "\n".join([head, *rows])


def test_a_profile_is_read_as_it_was_written() -> None:
    written = msgspec.json.encode([profile("a"), profile("b")]).decode()

    assert read_profile(written, "b") == profile("b")


@pytest.mark.parametrize(
    ("text", "model", "said"),
    [
        ("{", None, "headrace profile --output"),
        ("[{}]", None, "model"),
        ("[]", None, "none"),
        (msgspec.json.encode([profile("a"), profile("b")]).decode(), None, "a, b; choose one with --model"),
        (msgspec.json.encode([profile("a")]).decode(), "c", "has the models a"),
    ],
    ids=["not JSON", "no profile", "empty", "which", "unknown"],
)
def test_a_profile_that_cannot_be_used_says_why(text: str, model: str | None, said: str) -> None:
    with pytest.raises(BadFile, match=said):
        read_profile(text, model)


def test_a_rate_holds_until_the_next_row_and_tokens_are_averaged_over_texts() -> None:
    arrivals = read_trace(trace("10,2,30", "13,6,10", "14,0,1"))

    assert arrivals.rates == [2, 2, 2, 6]
    assert arrivals.tokens == 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1"),
        (trace("0,1,2", "1,1,2", head="time,rate,tokens"), "line 1: the columns must be seconds"),
        (trace("0,1,2"), "two rows"),
        (trace("0,1,2", "x,1,2"), "line 3: needs three numbers"),
        (trace("0,1,2", "5,1"), "line 3: needs three numbers"),
        (trace("0,1,2", "5,-1,2"), "line 3: needs 0 to"),
        (trace("0,1,2", "5,nan,2"), "line 3: needs 0 to"),
        (trace("5,1,2", "5,1,2"), "line 3: each row"),
        (trace("5,1,2", "3,1,2"), "line 3: each row"),
        (trace("0,0,2", "5,1,2"), "no texts"),
    ],
    ids=str,
)
def test_a_trace_that_cannot_be_used_says_where_and_why(text: str, said: str) -> None:
    with pytest.raises(BadFile, match=said):
        read_trace(text)


def test_a_replica_fills_batches_to_half_the_target_or_the_budget() -> None:
    by_time = replica(profile(token_s=2e-5), 50, WISH)
    by_tokens = replica(profile(token_s=2e-6, budget=5000), 50, WISH)

    assert by_time.full_s == pytest.approx(0.05, rel=0.03)
    assert by_tokens.most == 100


def test_a_text_that_takes_longer_than_the_target_is_said_to() -> None:
    with pytest.raises(BadFile, match="above the target"):
        replica(profile(token_s=0.1), 50, WISH)


def test_a_steady_load_is_recommended_what_it_needs() -> None:
    one = replica(profile(), 50, WISH)

    found = recommend(one, [3 * one.capacity] * 600, WISH)

    assert found.met
    assert found.outcome.inside >= 0.995
    assert found.outcome.gpu_hours <= 5 * 600 / 3600
    assert found.hpa.most >= found.outcome.most


def test_what_no_autoscaler_can_follow_needs_more_replicas_at_rest() -> None:
    one = replica(profile(), 50, WISH)
    jump = [0.5 * one.capacity] * 300 + [4 * one.capacity] * 300

    found = recommend(one, jump, Wish(0.1, start_s=600))

    assert found.met
    assert found.hpa.least >= 4


def test_too_few_gpus_are_told_and_the_best_is_named() -> None:
    one = replica(profile(), 50, WISH)

    found = recommend(one, [4 * one.capacity] * 300, Wish(0.1, gpus=2))

    assert not found.met
    assert found.hpa.most == 2
    assert summary(found, WISH).startswith("NOT MET")


def test_a_slow_start_lengthens_the_window_down() -> None:
    one = replica(profile(), 50, WISH)

    assert recommend(one, [one.capacity] * 300, Wish(0.1, start_s=240)).hpa.down.window_s == 480
    assert recommend(one, [one.capacity] * 300, Wish(0.1, start_s=60)).hpa.down.window_s == 300
