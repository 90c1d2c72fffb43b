"""
Which caller shows this key, and what a caller of a name may.

One hash and one comparison, for keys that are there and for keys that are not.
"""

import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway import keyfile
from gateway.caller import Caller, Grant
from gateway.keyfile import Keyfile
from gateway.watched import Watched

_LONGEST: Final = 200  # characters that are hashed of what is shown; a key has 84
_NOBODY: Final = secrets.token_bytes(32)  # compared with where no key has the id, so that this takes as long


@dataclass(frozen=True, slots=True)
class _Held:
    """A key that may be shown: its hash, whose it is, and when it ends (seconds since 1970)."""

    digest: bytes
    caller: Caller
    ends: float


@dataclass(frozen=True, slots=True)
class _Table:
    """A file of keys, by what is looked up in it."""

    keys: Mapping[str, _Held]
    callers: Mapping[str, Grant]


class Keyring:
    """The keys of a file, as it is now."""

    def __init__(
        self,
        path: Path,
        *,
        changed: Callable[[int], None] = lambda keys: None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the file; raises Unreadable. `changed` hears how many keys there are whenever it is read again."""
        self._now = now
        self._held = Watched(
            [path], lambda: _table(keyfile.read(path)), changed=lambda table: changed(len(table.keys)), clock=clock
        )

    def caller(self, shown: str) -> Caller | None:
        """Return whose key this is, or None: nobody's, revoked, expired or no key at all."""
        parts = shown.split("_", 2)
        held = self._held.current().keys.get(parts[1]) if len(parts) == 3 and parts[0] == "hr" else None  # noqa: PLR2004
        same = hmac.compare_digest(keyfile.digest(shown[:_LONGEST]), held.digest if held else _NOBODY)
        if held is None or not same or self._now() >= held.ends:
            return None
        return held.caller

    def grant(self, name: str) -> Grant | None:
        """Return what a caller of this name may, or None: there is none."""
        return self._held.current().callers.get(name)


def _table(file: Keyfile) -> _Table:
    never = float("inf")
    held = {
        key.id: _Held(bytes.fromhex(key.sha256), file.owner(key), key.expires.timestamp() if key.expires else never)
        for key in file.keys
    }
    return _Table(held, file.callers)
