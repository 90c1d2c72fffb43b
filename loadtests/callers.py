"""
Who calls: names, keys, priorities and patience, in the shares that a TOML file gives them.

    [[caller]]
    name = "search"
    share = 3
    priority = 2
    timeout_ms = 500
    key_variable = "SEARCH_KEY"    # or key_file = "..."; a key itself never stands here
"""

import os
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

_FIELDS: Final[Mapping[str, tuple[type, ...]]] = {
    "name": (str,),
    "share": (int, float),
    "priority": (int,),
    "timeout_ms": (int, float),
    "key_variable": (str,),
    "key_file": (str,),
}


class BadCallers(Exception):
    """A file of callers that cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One of those who call; `headers` go with each of its calls."""

    name: str
    share: float
    headers: Mapping[str, str]


ANYBODY: Final = (Caller("anybody", 1.0, {}),)


def pick(callers: Sequence[Caller], chance: random.Random) -> Caller:
    """Draw one by its share."""
    return chance.choices(callers, [caller.share for caller in callers])[0] if len(callers) > 1 else callers[0]


def read_callers(text: str) -> tuple[Caller, ...]:
    """Read the file's text, and the keys that it points to; raises BadCallers."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise BadCallers(str(err)) from None
    rows = tables.pop("caller", None)
    if tables or not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise BadCallers("it needs [[caller]] tables, and nothing else")
    callers = tuple(_caller(row) for row in rows)
    if len({caller.name for caller in callers}) < len(callers):
        raise BadCallers("two callers have one name")
    if not any(caller.share for caller in callers):
        raise BadCallers("nobody has a share above 0")
    return callers


def _caller(row: Mapping[str, Any]) -> Caller:
    name = row.get("name")
    if not isinstance(name, str) or not name:
        raise BadCallers("a caller has no name")
    for field, value in row.items():
        if field not in _FIELDS:
            raise BadCallers(f"{name}: {field}: there are {', '.join(_FIELDS)}")
        if isinstance(value, bool) or not isinstance(value, _FIELDS[field]):
            raise BadCallers(f"{name}: {field}: {value!r} is of the wrong type")
    share = float(row.get("share", 1.0))
    if not isfinite(share) or share < 0:
        raise BadCallers(f"{name}: share: {share} is not a number from 0")
    headers = {"x-request-priority": str(row["priority"])} if "priority" in row else {}
    if "timeout_ms" in row:
        headers["x-request-timeout-ms"] = str(row["timeout_ms"])
    key = _key(name, row)
    return Caller(name, share, headers | ({"authorization": f"Bearer {key}"} if key else {}))


def _key(name: str, row: Mapping[str, Any]) -> str:
    if "key_variable" in row and "key_file" in row:
        raise BadCallers(f"{name}: key_variable or key_file, not both")
    try:
        key = Path(row["key_file"]).read_text("ascii") if "key_file" in row else os.environ[row["key_variable"]]
    except KeyError:
        if "key_variable" in row:
            raise BadCallers(f"{name}: there is no variable {row['key_variable']}") from None
        return ""
    except (OSError, ValueError) as err:
        raise BadCallers(f"{name}: key_file: {type(err).__name__}") from None
    if not key.strip() or not key.strip().isprintable():
        raise BadCallers(f"{name}: its key is empty, or not one line")
    return key.strip()
