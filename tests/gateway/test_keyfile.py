import multiprocessing
import re
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import keyfile
from gateway.caller import Grant
from gateway.keyfile import Keyfile, StoredKey
from gateway.watched import Unreadable
from tests.gateway.keys import key_for


def test_a_key_is_long_and_random_and_the_file_does_not_hold_it(tmp_path: Path) -> None:
    file = tmp_path / "keys"

    made = [key_for(file) for _ in range(3)]

    assert all(re.fullmatch(r"hr_[0-9a-f]{16}_[0-9a-f]{64}", key) for key in made)
    assert len({key.split("_")[2] for key in made}) == 3
    assert not any(key.split("_")[2] in file.read_text() for key in made)
    assert [key.id for key in keyfile.read(file).keys] == [key.split("_")[1] for key in made]


def test_only_its_owner_can_read_a_new_file_and_an_old_one_keeps_who_can(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key_for(file)
    before = stat.S_IMODE(file.stat().st_mode)

    file.chmod(0o640)
    key_for(file)

    assert (before, stat.S_IMODE(file.stat().st_mode)) == (0o600, 0o640)


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "keys"
    link.symlink_to("there/real")

    key_for(link)
    key_for(link)

    assert link.is_symlink()
    assert len(keyfile.read(tmp_path / "there" / "real").keys) == 2


@contextmanager
def full_disk() -> Iterator[None]:
    """Files may have ten bytes; Python ignores the signal, and writing raises."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, most[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key_for(file)
    before = file.read_bytes()

    with full_disk(), pytest.raises(OSError, match="too large"):
        key_for(file)

    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["keys"]


def make_ten(file: Path) -> None:
    for _ in range(10):
        key_for(file)


def test_several_who_make_keys_at_once_lose_none(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    processes = [multiprocessing.get_context("fork").Process(target=make_ten, args=(file,)) for _ in range(3)]

    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert len(keyfile.read(file).keys) == 30


STORED = '{"id": "0123456789abcdef", "caller": "a", "created": "2026-11-22T00:00:00Z", "sha256": "' + "0" * 64 + '"}'


def of_a(*stored: str) -> str:
    return '{"callers": {"a": {}}, "keys": [' + ", ".join(stored) + "]}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "truncated"),
        ("[]", "object"),
        ('{"kees": []}', "kees"),
        (of_a(STORED).replace('"a": {}', ""), "not among the callers"),
        (of_a(STORED, STORED), "two keys"),
        (of_a(STORED.replace("0123456789abcdef", "xyz")), "id"),
        (of_a(STORED.replace("0" * 64, "0")), "sha256"),
        (of_a(STORED.replace("00Z", "00")), "created"),
        ('{"callers": {"a b": {}}}', "regex"),
        ('{"callers": {"a": {"modles": ["tiny"]}}}', "modles"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_name_and_the_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)

    with pytest.raises(Unreadable, match=said) as caught:
        keyfile.read(file)

    assert str(file) in str(caught.value)


@given(st.binary(max_size=200))
def test_whatever_stands_in_a_file_it_is_read_or_refused(content: bytes) -> None:
    with NamedTemporaryFile() as file:
        file.write(content)
        file.flush()

        with suppress(Unreadable):
            keyfile.read(Path(file.name))


def test_a_key_that_ends_lives_until_then() -> None:
    now = keyfile.utc_now()
    _, ends = keyfile.make_key("a", now, now + timedelta(hours=1))
    _, lasts = keyfile.make_key("a", now)

    assert [ends.live(now + timedelta(minutes=minutes)) for minutes in (59, 60, 61)] == [True, False, False]
    assert lasts.live(now + timedelta(days=10_000))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    now = keyfile.utc_now().replace(microsecond=0)
    keys = tuple(StoredKey(f"{n:016x}", "a", "0" * 64, now, now) for n in range(3))
    content = Keyfile({"a": Grant(models=frozenset({"m", "n"}), max_priority=-3), "b@c.d": Grant(admin=True)}, keys)

    keyfile.write(tmp_path / "keys", content)

    assert keyfile.read(tmp_path / "keys") == content
