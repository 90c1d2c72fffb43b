from importlib import import_module
from pkgutil import iter_modules
from typing import get_args

import msgspec
import pytest

import gateway
from gateway.caller import Caller, Grant, Speech
from gateway.dialect import Spoken


def caller(**rights: object) -> Caller:
    return Caller("search", "0" * 16, msgspec.convert(rights, Grant))


def test_whoever_is_granted_nothing_in_particular_may_do_everything_but_admin() -> None:
    anybody = caller()

    assert anybody.may_use("tiny")
    assert anybody.may_ask("rerank")
    assert anybody.may_speak("openai")
    assert not anybody.grant.admin
    assert not anybody.grant.limited


def test_what_is_granted_is_all_there_is() -> None:
    narrow = caller(models=["tiny"], tasks=["embed"], dialects=["openai"])

    assert [narrow.may_use(name) for name in ("tiny", "other")] == [True, False]
    assert [narrow.may_ask(task) for task in ("embed", "rerank")] == [True, False]  # type: ignore[arg-type]
    assert [narrow.may_speak(name) for name in ("openai", "kserve")] == [True, False]


def test_nothing_may_be_granted_at_all() -> None:
    nobody = caller(models=[], tasks=[], dialects=[])

    assert not (nobody.may_use("tiny") or nobody.may_ask("embed") or nobody.may_speak("openai"))


@pytest.mark.parametrize(
    "limit", [{"requests_per_s": 0.1}, {"tokens_per_s": 1}, {"tokens_per_day": 1}, {"in_flight": 1}]
)
def test_one_limit_is_enough_to_be_counted(limit: dict[str, object]) -> None:
    assert caller(**limit).grant.limited


@pytest.mark.parametrize(
    "wrong",
    [
        *({"model": ["a"]}, {"models": "tiny"}, {"dialects": ["klingon"]}, {"tasks": ["juggle"]}, {"admin": "yes"}),
        *(
            {"max_priority": 10},
            {"requests_per_s": 0},
            {"requests_per_s": -1},
            {"in_flight": 0},
            {"tokens_per_day": 1.5},
        ),
    ],
    ids=str,
)
def test_a_grant_that_is_misspelt_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Grant)


def test_every_dialect_that_is_spoken_can_be_granted() -> None:
    modules = [import_module(f"gateway.{each.name}") for each in iter_modules(gateway.__path__)]

    dialects = {Spoken(module, []).name for module in modules if hasattr(module, "PREFIXES")}

    assert dialects == set(get_args(Speech))
