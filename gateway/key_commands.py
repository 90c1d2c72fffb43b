"""`headrace keys`: make keys, look at them, take them away. Servers that use the file read it within a second."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from gateway import keyfile
from gateway.caller import Grant
from gateway.keyfile import Keyfile, Name, StoredKey
from gateway.watched import Unreadable

_MISUSED: Final = 2
_SPAN: Final = re.compile(r"([1-9][0-9]{0,5})([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LISTS: Final = ("models", "tasks", "dialects")
_NAME: Final = "a name: letters, digits and . _ @ : - (at most 100)"
_ANY: Final = "any"  # takes a right or a limit back to what it is where nothing is said
_RIGHTS: Final[Mapping[str, str]] = {
    "models": "names of models, parted by commas",
    "tasks": "what may be asked of them (embed, rerank, ...), parted by commas",
    "dialects": "dialects, by their names in the key file (openai, kserve, ...), parted by commas",
    "max_priority": "highest class that its calls get, -9 to 9, instead of the server's --max-priority",
    "requests_per_s": "calls a second",
    "tokens_per_s": "tokens a second, counted when they were answered",
    "tokens_per_day": "tokens a day of UTC",
    "in_flight": "calls at once",
}


class _Wrong(Exception):
    """What is asked for cannot be done; one line says why."""


def keys(arguments: Sequence[str]) -> int:
    """Change or show a file of keys."""
    told = _flags().parse_args(arguments)
    verbs: dict[str, Callable[[argparse.Namespace], None]] = {
        "create": _create,
        "add": _add,
        "list": _list,
        "grant": _grant,
        "expire": _expire,
        "revoke": _revoke,
    }
    try:
        verbs[told.verb](told)
    except (_Wrong, Unreadable) as err:
        return _refuse(str(err))
    except OSError as err:
        return _refuse(f"cannot write {told.file}: {err.strerror}")
    return 0


def _create(told: argparse.Namespace) -> None:
    """Print a new key on standard output: the only time that anybody sees it."""
    name, now = _checked(told.name, Name, _NAME), keyfile.utc_now()
    expires = _moment(told.expires, now) if told.expires else None
    with keyfile.changing(told.file) as file:
        key, kept = keyfile.make_key(name, now, expires)
        callers = {**file.callers, name: _granted(file.callers.get(name, Grant()), told)}
        keyfile.write(told.file, Keyfile(callers, (*file.keys, kept)))
    print(key)
    until = f", until {kept.expires:%Y-%m-%d %H:%M:%S} UTC" if kept.expires else ""
    sys.stderr.write(f"headrace: a key of {name}{until}; keep it now, {told.file} holds only its hash\n")


def _add(told: argparse.Namespace) -> None:
    """Write down a caller who has no key yet, or never: one who shows tokens."""
    name = _checked(told.name, Name, _NAME)
    with keyfile.changing(told.file) as file:
        if name in file.callers:
            raise _Wrong(f"there is a caller {name!r} already; `headrace keys grant` changes what they may")
        granted = _granted(Grant(), told)
        keyfile.write(told.file, Keyfile({**file.callers, name: granted}, file.keys))
    print(f"{name}: {_described(granted)}")


def _list(told: argparse.Namespace) -> None:
    file, now = keyfile.read(told.file), keyfile.utc_now()
    if told.json:
        print(msgspec.json.format(msgspec.json.encode(file, order="sorted"), indent=2).decode())
        return
    for name, grant in file.callers.items():
        print(f"{name}: {_described(grant)}")
        for key in file.keys:
            if key.caller == name:
                print(f"  {key.id}  {_lifetime(key, now)}")


def _grant(told: argparse.Namespace) -> None:
    with keyfile.changing(told.file) as file:
        if told.name not in file.callers:
            raise _Wrong(f"there is no caller {told.name!r}; there is: {', '.join(file.callers) or 'nobody'}")
        changed = _granted(file.callers[told.name], told)
        keyfile.write(told.file, Keyfile({**file.callers, told.name: changed}, file.keys))
    print(f"{told.name}: {_described(changed)}")


def _expire(told: argparse.Namespace) -> None:
    """Give a key an end, or another one, or none."""
    now = keyfile.utc_now()
    words: dict[str, datetime | None] = {"now": now, "never": None}
    expires = words[told.at] if told.at in words else _moment(told.at, now)
    with keyfile.changing(told.file) as file:
        key = msgspec.structs.replace(_found(file, told.id), expires=expires)
        keyfile.write(told.file, Keyfile(file.callers, tuple(key if each.id == key.id else each for each in file.keys)))
    print(f"{key.id}  {_lifetime(key, now)}")


def _revoke(told: argparse.Namespace) -> None:
    """Take a key away for good; its caller stays, with what they may."""
    with keyfile.changing(told.file) as file:
        key = _found(file, told.id)
        keyfile.write(told.file, Keyfile(file.callers, tuple(each for each in file.keys if each.id != key.id)))
    print(f"{key.id} of {key.caller} opens nothing any more")


def _found(file: Keyfile, told: str) -> StoredKey:
    """Find a key by its id, or by the whole key."""
    id_ = told.split("_")[1] if told.startswith("hr_") and told.count("_") > 1 else told
    key = next((key for key in file.keys if key.id == id_), None)
    if key is None:
        raise _Wrong(f"no key has the id {id_[:32]!r}; `headrace keys list` shows them")
    return key


def _granted(grant: Grant, told: argparse.Namespace) -> Grant:
    """Put in what is said; what is not said stays as it is."""
    words = {right: getattr(told, right) for right in _RIGHTS}
    said = {right: _value(right, text) for right, text in words.items() if text is not None}
    said |= {} if told.admin is None else {"admin": told.admin}
    try:
        return msgspec.convert({**msgspec.to_builtins(grant), **said}, Grant, strict=False)
    except msgspec.ValidationError as err:
        raise _Wrong(str(err)) from None


def _value(right: str, text: str) -> object:
    if text == _ANY:
        return None
    return [part.strip() for part in text.split(",") if part.strip()] if right in _LISTS else text


def _moment(text: str, now: datetime) -> datetime:
    """Read a time span from now (`90d`) or a moment (`2027-01-31`, `2027-01-31T12:00Z`; UTC where no zone is told)."""
    span = _SPAN.fullmatch(text)
    try:
        if span:
            return now.replace(microsecond=0) + timedelta(**{_UNITS[span[2]]: int(span[1])})
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _Wrong(f"{text!r} is neither a time span such as 90d or 12h, nor a moment such as 2027-01-31") from None


def _checked(text: str, kind: Any, expects: str) -> str:
    try:
        return str(msgspec.convert(text, kind))
    except msgspec.ValidationError:
        raise _Wrong(f"{text!r} is not {expects}") from None


def _described(grant: Grant) -> str:
    parts = [f"{right}={_shown(told)}" for right, told in msgspec.to_builtins(grant, order="sorted").items()]
    return ", ".join(parts) or "everything but admin, without limits"


def _shown(told: object) -> str:
    return ",".join(map(str, told)) if isinstance(told, list) else str(told).lower()


def _lifetime(key: StoredKey, now: datetime) -> str:
    made = f"made {key.created:%Y-%m-%d}"
    if key.expires is None:
        return f"{made}, does not expire"
    return f"{made}, {'expires' if key.live(now) else 'expired'} {key.expires:%Y-%m-%d %H:%M:%S} UTC"


def _flags() -> argparse.ArgumentParser:
    parser = _Parser("headrace keys", description="Make and keep the keys of `headrace serve --keys FILE`.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str, *words: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        for word in words:
            added.add_argument(word)
        added.add_argument("--file", type=Path, required=True, metavar="F", help="the file of keys")
        return added

    create = verb("create", "print a new key of a caller; the file keeps its hash", "name")
    create.add_argument("--expires", metavar="WHEN", help="90d, 12h or 2027-01-31; without it, never")
    _add_rights(create)
    _add_rights(verb("add", "write down a caller without a key, who shows tokens", "name"))
    shown = verb("list", "show callers, what they may, and the ids of their keys")
    shown.add_argument("--json", action="store_true", help="for machines")
    _add_rights(verb("grant", "change what a caller may, with all their keys", "name"))
    expire = verb("expire", "end a key at a moment", "id")
    expire.add_argument("--at", metavar="WHEN", default="now", help="as --expires, or now, or never [%(default)s]")
    verb("revoke", "take a key away", "id")
    return parser


def _add_rights(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"Rights and limits are a caller's, for all their keys; `{_ANY}` takes one back."
    for right, text in _RIGHTS.items():
        parser.add_argument(f"--{right.replace('_', '-')}", metavar="X", help=text)
    parser.add_argument("--admin", action=argparse.BooleanOptionalAction, help="may change what is served")


class _Parser(argparse.ArgumentParser):
    """argparse, with our way to refuse."""

    def error(self, message: str) -> NoReturn:
        """End with the code of what is misused."""
        self.print_usage(sys.stderr)
        sys.exit(_refuse(message))


def _refuse(message: str) -> int:
    sys.stderr.write(f"headrace: {message}\n")
    return _MISUSED
