import random
from collections import Counter
from pathlib import Path

import pytest

from loadtests.callers import BadCallers, pick, read_callers


def test_a_caller_has_its_key_from_where_the_file_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("of-a-file\n")
    monkeypatch.setenv("LOADTEST_KEY", "of-a-variable")
    text = f"""
        [[caller]]
        name = "search"
        priority = 2
        timeout_ms = 500
        key_variable = "LOADTEST_KEY"
        [[caller]]
        name = "batch"
        share = 3
        key_file = "{tmp_path / "key"}"
        [[caller]]
        name = "guest"
    """

    search, batch, guest = read_callers(text)

    assert search.headers == {
        "authorization": "Bearer of-a-variable",
        "x-request-priority": "2",
        "x-request-timeout-ms": "500",
    }
    assert batch.headers == {"authorization": "Bearer of-a-file"}
    assert guest.headers == {}


def test_callers_come_in_their_shares() -> None:
    callers = read_callers('[[caller]]\nname = "a"\n[[caller]]\nname = "b"\nshare = 3\n')
    chance = random.Random(0)

    drawn = Counter(pick(callers, chance).name for _ in range(4000))

    assert drawn["b"] == pytest.approx(3000, abs=150)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs"),
        ("caller = 3", "needs"),
        ("[[caller]]\nname = 'a'\n[other]\n", "nothing else"),
        ("[[caller]]\nshare = 1", "no name"),
        ("[[caller]]\nname = 'a'\nkey = 'secret'", "there are"),
        ("[[caller]]\nname = 'a'\npriority = 'high'", "wrong type"),
        ("[[caller]]\nname = 'a'\nshare = -1", "from 0"),
        ("[[caller]]\nname = 'a'\nshare = 0", "nobody"),
        ("[[caller]]\nname = 'a'\n[[caller]]\nname = 'a'", "one name"),
        ("[[caller]]\nname = 'a'\nkey_variable = 'LOADTEST_NOT_SET'", "no variable"),
        ("[[caller]]\nname = 'a'\nkey_file = '/nowhere'", "FileNotFoundError"),
        ("[[caller]]\nname = 'a'\nkey_file = '/dev/null'", "empty"),
        ("[[caller]]\nname = 'a'\nkey_file = 'x'\nkey_variable = 'y'", "not both"),
        ("[[caller", "Expected"),
    ],
)
def test_callers_that_cannot_be_read_are_refused(text: str, said: str) -> None:
    with pytest.raises(BadCallers, match=said):
        read_callers(text)
