"""
The file of API keys: callers with what they may, and hashes of their keys. Changed whole or not at all.

A key is `hr_<id>_<secret>`. Its secret has 256 random bits, so one SHA-256 is as good as any slow hash: those make
guessing dear where people choose the secret, and nobody guesses this one.
"""

import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec

from gateway.caller import Caller, Grant
from gateway.watched import Unreadable

_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@:-]{0,99}\Z")]
"""Of a caller; it stands in logs and in labels of metrics."""


class StoredKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is kept of a key: nothing that opens anything."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
    caller: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]  # of the whole key
    created: Annotated[datetime, msgspec.Meta(tz=True)]
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def live(self, now: datetime) -> bool:
        """Whether it still opens."""
        return self.expires is None or now < self.expires


class Keyfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of the file."""

    callers: dict[Name, Grant] = msgspec.field(default_factory=dict)
    keys: tuple[StoredKey, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for key in self.keys:
            if key.caller not in self.callers:
                raise ValueError(f"the key {key.id} is of {key.caller!r}, who is not among the callers")
            if key.id in seen:
                raise ValueError(f"two keys have the id {key.id}")
            seen.add(key.id)

    def owner(self, key: StoredKey) -> Caller:
        """Return who shows this key."""
        return Caller(key.caller, key.id, self.callers[key.caller])


_DECODER: Final = msgspec.json.Decoder(Keyfile)


def read(path: Path) -> Keyfile:
    """Read a file of keys; raises Unreadable."""
    try:
        return _DECODER.decode(path.read_bytes())
    except OSError as err:
        raise Unreadable(f"cannot read the keys in {path}: {err.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise Unreadable(f"{path} is not a file of keys: {err}") from None


@contextmanager
def changing(path: Path) -> Iterator[Keyfile]:
    """Hold the file against others who would change it, and give what is in it; one that is not there is empty."""
    folder = os.open(_real(path).parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield read(path) if path.exists() else Keyfile()
    finally:
        os.close(folder)


def write(path: Path, content: Keyfile) -> None:
    """Put a new file in the place of the old one; raises OSError, and then the old one stands."""
    real = _real(path)
    descriptor, made = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")  # for its owner alone
    with ExitStack() as undo:
        undo.callback(os.unlink, made)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if real.exists():
            os.chmod(made, real.stat().st_mode & 0o777)
        os.replace(made, real)
        undo.pop_all()


def make_key(caller: str, now: datetime, expires: datetime | None = None) -> tuple[str, StoredKey]:
    """Return a new key, which is not kept anywhere, and what is kept of it."""
    id_ = secrets.token_hex(_ID_BYTES)
    key = f"hr_{id_}_{secrets.token_hex(_SECRET_BYTES)}"
    return key, StoredKey(id_, caller, digest(key).hex(), now.replace(microsecond=0), expires)


def digest(key: str) -> bytes:
    """Return the hash of a key: 32 bytes."""
    return hashlib.sha256(key.encode()).digest()


def utc_now() -> datetime:
    """Return the moment, with its zone."""
    return datetime.now(UTC)


def _real(path: Path) -> Path:
    """Where a link leads: the link itself is to stay."""
    return path.resolve()
