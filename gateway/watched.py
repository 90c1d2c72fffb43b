"""
A value that is read from files, and read again once they change.

It looks when it is asked, at most once a second: no task, no thread, and nothing to stop. A link that is swapped is a
change (Kubernetes replaces Secrets so). What cannot be read changes nothing: a key file that is mended by hand, or a
certificate whose key is still to be written, must not lock anybody out, or in.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")
Stamp = tuple[int, ...] | None

_log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 1.0


class Unreadable(Exception):
    """A file is not what it must be; one line says why, and holds nothing of what is in it."""


class Watched(Generic[Value]):
    """What `read` makes of files; `changed` hears of every value after the first."""

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[], Value],
        *,
        changed: Callable[[Value], None] = lambda value: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read for the first time; raises Unreadable."""
        self._paths = paths
        self._read = read
        self._changed = changed
        self._clock = clock
        self._seen = self._stamps()
        self._value = read()
        self._look_at = clock() + _LOOK_EVERY_S

    def current(self) -> Value:
        """Return the value, as the files were a second ago or later."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            self._look()
        return self._value

    def _look(self) -> None:
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps  # taken before reading: what changes meanwhile is a change the next time
        try:
            self._value = self._read()
        except Unreadable as err:
            _log.error("%s; going on with what was read before", err)
        else:
            _log.info("read again: %s", ", ".join(map(str, self._paths)))
            self._changed(self._value)

    def _stamps(self) -> Sequence[Stamp]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> Stamp:
    """What changes when a file does, also when one of the links to it is swapped."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
