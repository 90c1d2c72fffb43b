import json
from pathlib import Path

import pytest

from gateway import keyfile
from gateway.key_commands import keys
from gateway.keyring import Keyring


class Subject:
    """The command, on one file."""

    def __init__(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = file
        self._capsys = capsys

    def __call__(self, *words: str) -> str:
        """Run it; it must go well."""
        code, out, err = self.run(*words)
        assert code == 0, err
        return out

    def run(self, *words: str) -> tuple[object, str, str]:
        try:
            code: object = keys([*words, "--file", str(self.file)])
        except SystemExit as end:
            code = end.code
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def opens(self, key: str) -> bool:
        return Keyring(self.file).caller(key.strip()) is not None


@pytest.fixture
def subject(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Subject:
    return Subject(tmp_path / "keys", capsys)


def test_a_key_is_printed_alone_once_and_opens(subject: Subject) -> None:
    code, out, err = subject.run("create", "search")

    assert code == 0
    assert out.count("\n") == 1
    assert subject.opens(out)
    assert out.strip() not in err + subject.file.read_text() + subject("list")


def test_the_list_shows_callers_rights_and_the_life_of_keys(subject: Subject) -> None:
    ids = [
        subject("create", "search", "--models", "a, b", "--requests-per-s", "5").split("_")[1],
        subject("create", "search", "--expires", "2000-01-31T12:00+02:00").split("_")[1],
        subject("create", "ops", "--admin", "--expires", "2100-01-31").split("_")[1],
    ]

    shown = subject("list").splitlines()

    today = f"{keyfile.utc_now():%Y-%m-%d}"
    assert shown == [
        "ops: admin=true",
        f"  {ids[2]}  made {today}, expires 2100-01-31 00:00:00 UTC",
        "search: models=a,b, requests_per_s=5.0",
        f"  {ids[0]}  made {today}, does not expire",
        f"  {ids[1]}  made {today}, expired 2000-01-31 10:00:00 UTC",
    ]
    assert [key["id"] for key in json.loads(subject("list", "--json"))["keys"]] == ids


def test_a_second_key_changes_no_right_that_is_not_named(subject: Subject) -> None:
    subject("create", "search", "--models", "a", "--in-flight", "3")

    subject("create", "search", "--in-flight", "4")

    assert subject("list").splitlines()[0] == "search: in_flight=4, models=a"


def test_rights_are_granted_changed_and_taken_back(subject: Subject) -> None:
    subject("create", "search")

    granted = subject("grant", "search", "--tasks", "embed,rerank", "--dialects", "openai", "--max-priority", "-2")
    changed = subject("grant", "search", "--tasks", "any", "--tokens-per-day", "1000", "--admin")
    taken = subject(
        "grant", "search", *("--dialects", "any", "--max-priority=any", "--tokens-per-day=any", "--no-admin")
    )

    assert granted == "search: dialects=openai, max_priority=-2, tasks=embed,rerank\n"
    assert changed == "search: admin=true, dialects=openai, max_priority=-2, tokens_per_day=1000\n"
    assert taken == "search: everything but admin, without limits\n"


def test_a_key_is_revoked_by_its_id_or_by_itself(subject: Subject) -> None:
    made = [subject("create", "search").strip() for _ in range(3)]

    said = subject("revoke", made[0].split("_")[1])
    subject("revoke", made[1])

    assert said == f"{made[0].split('_')[1]} of search opens nothing any more\n"
    assert [subject.opens(key) for key in made] == [False, False, True]


def test_a_key_expires_at_once_or_at_a_moment_or_never(subject: Subject) -> None:
    key = subject("create", "search").strip()
    id_ = key.split("_")[1]

    opened = []
    for words in ([], ["--at", "never"], ["--at", "2000-01-01"], ["--at", "2h"]):
        subject("expire", id_, *words)
        opened.append(subject.opens(key))

    assert opened == [False, True, False, True]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "VERB"),
        (["make", "search"], "invalid choice"),
        (["create"], "name"),
        (["create", "se arch"], "'se arch' is not a name"),
        (["create", "a\n"], "is not a name"),
        (["create", "search", "--expires", "soon"], "'soon' is neither a time span"),
        (["create", "search", "--expires", "999999w"], "neither"),
        (["create", "search", "--tasks", "juggle"], "juggle"),
        (["create", "search", "--requests-per-s", "fast"], "requests_per_s"),
        (["create", "search", "--in-flight", "0"], "in_flight"),
        (["create", "search", "--in-flight", ""], "in_flight"),
        (["create", "search", "--model", "a"], "--model"),
        (["grant", "nobody"], "no caller 'nobody'; there is: nobody"),
        (["revoke", "0123"], "no key has the id '0123'"),
        (["expire", "hr_0123_4567"], "no key has the id '0123'"),
        (["list"], "cannot read the keys"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_with_code_2_and_changes_nothing(
    subject: Subject, words: list[str], said: str
) -> None:
    code, out, err = subject.run(*words)

    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("headrace: ")
    assert not subject.file.exists()


def test_a_file_of_something_else_is_never_overwritten(subject: Subject) -> None:
    subject.file.write_text("precious")

    code, _, err = subject.run("create", "search")

    assert code == 2
    assert "is not a file of keys" in err
    assert subject.file.read_text() == "precious"


def test_a_folder_that_is_not_there_is_told(subject: Subject) -> None:
    subject.file = subject.file / "deeper" / "keys"

    code, _, err = subject.run("create", "search")

    assert code == 2
    assert err.startswith("headrace: cannot write")


def test_a_caller_who_shows_tokens_is_written_down_without_a_key(subject: Subject) -> None:
    name = "system:serviceaccount:apps:search"

    said = subject("add", name, "--models", "a")
    twice = subject.run("add", name)

    assert said == f"{name}: models=a\n"
    assert twice[0] == 2
    assert keyfile.read(subject.file).keys == ()
    assert Keyring(subject.file).grant(name) is not None
