import os
from pathlib import Path

import pytest

from gateway.watched import Unreadable, Watched


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def text_of(path: Path) -> str:
    try:
        text = path.read_text()
    except OSError:
        raise Unreadable("it is gone") from None
    if text == "broken":
        raise Unreadable("it is broken")
    return text


def watched(path: Path, clock: Clock, heard: list[str] | None = None) -> Watched[str]:
    changed = (lambda value: None) if heard is None else heard.append
    return Watched([path], lambda: text_of(path), changed=changed, clock=clock)


def test_a_change_is_seen_a_second_later_and_told_once(tmp_path: Path) -> None:
    file, clock, heard = tmp_path / "f", Clock(), list[str]()
    file.write_text("one")
    subject = watched(file, clock, heard)

    file.write_text("other")
    at_once = subject.current()
    clock.now = 1.0
    later = [subject.current(), subject.current()]
    clock.now = 2.0
    last = subject.current()

    assert (at_once, later, last) == ("one", ["other", "other"], "other")
    assert heard == ["other"]


def test_a_link_that_is_swapped_is_a_change_as_in_a_secret_of_kubernetes(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys").write_text(version)
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "keys").symlink_to("..data/keys")
    clock = Clock()
    subject = watched(tmp_path / "keys", clock)

    (tmp_path / "new").symlink_to("2")
    os.replace(tmp_path / "new", tmp_path / "..data")
    clock.now = 1.0

    assert subject.current() == "2"


@pytest.mark.parametrize("how", ["broken", "gone"])
def test_what_cannot_be_read_changes_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    file, clock = tmp_path / "f", Clock()
    file.write_text("one")
    subject = watched(file, clock)

    file.write_text("broken") if how == "broken" else file.unlink()
    seen = []
    for clock.now in (1.0, 2.0, 3.0):
        seen.append(subject.current())
    file.write_text("mended")
    clock.now = 4.0

    assert seen == ["one"] * 3
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        f"it is {how}; going on with what was read before"
    ]
    assert subject.current() == "mended"


def test_the_first_reading_may_not_fail(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="gone"):
        watched(tmp_path / "none", Clock())
