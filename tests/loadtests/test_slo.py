import pytest

from loadtests.slo import BadSlo, Objective, read_slo


def test_a_route_has_its_own_objective_or_the_default() -> None:
    slo = read_slo('[default]\np99_ms = 250\n["/v1/rerank"]\np50_ms = 80\nerror_rate = 0.01\n')

    assert slo.of("/v1/rerank") == Objective(p50_ms=80, error_rate=0.01)
    assert slo.of("/v1/embeddings") == Objective(p99_ms=250)


def test_without_a_default_other_routes_promise_nothing() -> None:
    assert read_slo('["/v1/rerank"]\np50_ms = 80\n').of("/v1/embeddings") is None


def test_goodput_counts_to_its_deadline_or_to_the_p99() -> None:
    assert read_slo("[default]\np99_ms = 250\ngoodput = 9\n").of("/") == Objective(p99_ms=250, goodput=9)
    assert Objective(p99_ms=250, deadline_ms=500).in_time_ms == 500
    assert Objective(p99_ms=250).in_time_ms == 250


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "promises nothing"),
        ("p99_ms = 3", "neither"),
        ("default = 3", "not a table"),
        ("[default]\np98_ms = 3", "p98_ms"),
        ("[default]\np99_ms = -3", "not a number from 0"),
        ("[default]\np99_ms = nan", "not a number from 0"),
        ("[default]\np99_ms = '3'", "not a number from 0"),
        ("[default]\np99_ms = true", "not a number from 0"),
        ("[default]\nshed_rate = 3", "not a share"),
        ("[default]\ngoodput = 3", "needs deadline_ms"),
        ("[embed]\np99_ms = 3", "in quotes"),
        ("[default", "Expected"),
    ],
)
def test_a_promise_that_cannot_be_read_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadSlo, match=said):
        read_slo(text)
