"""What the keys of settings take: in words for people, and as parsers. Reads nothing but paths."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os.path import exists, expanduser  # pathlib's raise where these just answer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from inference import TASKS, ForModel, ModelSource, Task

Number = TypeVar("Number", int, float)

DAY_S = 86_400
FOLDER = re.compile(r"[/.~][^@]*")
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
MODEL_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a key takes, in words and as a parser (ValueError: not that); `toml` has the types TOML may write."""

    metavar: str
    expects: str
    parse: Callable[[str], object]
    toml: tuple[type, ...] = (str,)
    show: Callable[[Any], str] = str
    secret: bool = False  # may hold a password: never repeated


def _matching(pattern: str, text: str) -> str:
    if not re.fullmatch(pattern, text.lower(), re.ASCII):
        raise ValueError(text)
    return text.lower()


def _within(number: Number, least: Number, most: Number) -> Number:
    if not least <= number <= most:  # nor is NaN
        raise ValueError(number)
    return number


def _prefix(text: str) -> str:
    if not re.fullmatch(r"(/[\w.~-]+)+/?|/", text, re.ASCII):
        raise ValueError(text)
    return text.rstrip("/")


def _plain(pattern: str, text: str) -> str:
    if not re.fullmatch(pattern, text, re.ASCII):
        raise ValueError(text)
    return text


def _url(text: str) -> str:
    """Without what would hold a password, or be cut off by what is added to it."""
    parts = urlsplit(text)
    if text == "none":
        return ""
    named = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    if not named or parts.username is not None or parts.query or parts.fragment or not text.isprintable():
        raise ValueError(text)
    return text.rstrip("/")


def _places(text: str) -> tuple[str, ...]:
    cpu, gpu = "cpu", "cuda(:(0|[1-9][0-9]{0,2}))?"
    return tuple(_matching(f"auto|{cpu}(,{cpu})*|{gpu}(,{gpu})*", text).split(","))


def _redis(text: str) -> str:
    if not re.fullmatch(r"(rediss?|unix)://\S+", text):
        raise ValueError("not such a URL")
    return text


def secure_url(text: str) -> str:
    """Read where something comes from that is believed: HTTPS, or HTTP on this machine; ValueError: not that."""
    parts = urlsplit(text)
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"})
    if not secure or not parts.hostname or parts.username is not None or not re.fullmatch(r"[!-~]+", text):
        raise ValueError(text)
    return text


def _issuer(text: str) -> str:
    if "?" in text or "#" in text:
        raise ValueError(text)
    return "" if text == "none" else secure_url(text)


def _jwks(text: str) -> Path | str | None:
    if text == "none":
        return None
    return secure_url(text) if "://" in text else _path(text)


def _boolean(text: str) -> bool:
    return BOOLEANS[_matching("|".join(BOOLEANS), text)]


def _path(text: str) -> Path:
    if not text.strip() or not text.isprintable():
        raise ValueError(text)
    return Path(expanduser(text))


def _show_path(path: Path) -> str:
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def read_source(text: str) -> ModelSource:
    """
    Read what --model takes; ValueError: not that.

    What exists on this disk is a folder, whatever its name; `=` and `@` have a meaning elsewhere.
    """
    name, place = text.split("=", 1) if "=" in text and not exists(text) else ("", text)
    place, revision = expanduser(place), ""
    if not exists(place) and not FOLDER.fullmatch(place):
        place, at, revision = place.partition("@")
        if not HUB_ID.fullmatch(place) or (at and (exists(place) or not COMMIT.fullmatch(revision))):
            raise ValueError(text)
    name = name or place.rstrip("/").rpartition("/")[2]
    if not MODEL_NAME.fullmatch(name):
        raise ValueError(text)
    return ModelSource(name, place, revision or None)


def _task(text: str) -> ForModel[Task]:
    name, named, task = text.rpartition("=")
    known: dict[str, Task] = {each: each for each in TASKS}
    if task not in known or (named and not MODEL_NAME.fullmatch(name)):
        raise ValueError(text)
    return ForModel(name or None, known[task])


def _golden(text: str) -> ForModel[Path]:
    """What exists on this disk is a file, whatever its name."""
    name, named, place = text.partition("=") if not exists(expanduser(text)) else ("", "", text)
    if named and not MODEL_NAME.fullmatch(name):
        raise ValueError(text)
    return ForModel(name or None, _path(place))


def unclear(names: Sequence[str], all_told: Sequence[ForModel[object]]) -> Iterator[tuple[str, str]]:
    """Say what is told about no served model, or not clearly about one, and the fix."""
    for told in all_told:
        if told.model is None and len(names) > 1:
            yield "there are several models", f"say which is meant, {names[0]}=..."
        if told.model is not None and told.model not in names:
            yield f"no model {told.model} is served", f"name one of {', '.join(names)}"
    meant = [told.model or names[0] for told in all_told]
    if len(set(meant)) < len(meant):
        yield "one model is told twice", "keep one of them"


def _show_told(all_told: Sequence[ForModel[object]]) -> str:
    return ", ".join(f"{told.model or 'the model'}={told.value}" for told in all_told) or "none"


def words(*words: str) -> Kind:
    """One of these words."""
    return Kind("WORD", f"one of {', '.join(words)}", partial(_matching, "|".join(words)))


def whole(unit: str, least: int, most: int) -> Kind:
    """A whole number between these."""
    expects = f"a whole number{unit} from {least} to {most}"
    return Kind("N", expects, lambda text: _within(int(text), least, most), (int,))


def time(unit: str, per_second: int, least_s: float) -> Kind:
    """A time of at least so many seconds, written in a unit of which a second has so many; seconds inside."""
    return Kind(
        unit.upper(),
        f"a number of {unit} from {least_s * per_second:g} to {DAY_S * per_second}",
        lambda text: _within(float(text) / per_second, least_s, DAY_S),
        (int, float),
        lambda seconds: f"{seconds * per_second:.12g}",
    )


PORT = whole("", 0, 65_535)
MAYBE_PORT = Kind(
    "N",
    "off, or a whole number from 0 to 65535",
    lambda text: None if text.lower() == "off" else _within(int(text), 0, 65_535),
    (int, str),
    lambda port: "off" if port is None else str(port),
)
BYTES = whole(" of bytes", 0, 1 << 50)
TOKENS = whole(" of tokens", 0, 1 << 40)
CONNECTIONS = whole("", 1, 1 << 20)
SECONDS = time("seconds", 1, 0.001)
MILLISECONDS = time("ms", 1000, 0.001)
SHARE = Kind(
    "SHARE",
    "a number from 0.01 to 1",
    lambda text: _within(float(text), 0.01, 1.0),
    (int, float),
    lambda n: f"{n:.12g}",
)
FILE = Kind("PATH", "a path", _path, show=_show_path)
MAYBE_FILE = Kind(
    "PATH",
    "a path, or none",
    lambda text: None if text == "none" else _path(text),
    show=lambda path: "none" if path is None else _show_path(path),
)
HOST = Kind(
    "HOST",
    "an address or a host name, without a port",
    partial(_matching, r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|[0-9a-f.]*(:[0-9a-f.]*){2,}"),
)
ORIGIN = Kind(
    "ORIGIN",
    "an origin such as `https://console.example.com`, with its port if it has one",
    partial(_matching, r"https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"),
    show=lambda origins: ", ".join(origins) or "none",
)
REDIS = Kind(
    "URL",
    "`redis://`, `rediss://` or `unix://` and what follows, or none",
    lambda text: None if text == "none" else _redis(text),
    show=lambda url: "none" if url is None else "one that is set",
    secret=True,
)
PREFIX = Kind(
    "PATH",
    "a path such as /infinity or /v1, or / for no prefix",
    _prefix,
    show=lambda prefix: prefix or "/",
)
URL = Kind("URL", "a URL such as http://collector:4318, or none", _url, show=lambda url: url or "none")
ISSUER = Kind(
    "URL",
    "an `https://` URL exactly as tokens have it (`http://` on a loopback address alone), or none",
    _issuer,
    show=lambda url: url or "none",
)
AUDIENCE = Kind(
    "NAME",
    "up to 200 printable characters without spaces, or none",
    lambda text: "" if text == "none" else _plain(r"[!-~]{1,200}", text),
    show=lambda name: name or "none",
)
CLAIM = Kind("NAME", "up to 100 printable characters without spaces", partial(_plain, r"[!-~]{1,100}"))
JWKS = Kind(
    "PLACE",
    "a path, an `https://` URL, or none for where the issuer says",
    _jwks,
    show=lambda place: "none" if place is None else _show_path(place) if isinstance(place, Path) else place,
)
NAME = Kind("NAME", "a name of up to 100 letters, digits and ._/-", partial(_plain, r"[\w./-]{1,100}"))
DEVICES = Kind("DEVICES", "auto, or cpu, cuda, cuda:N, or several such as `cuda:0,cuda:1`", _places, show=",".join)
BOOLEAN = Kind("", "true or false", _boolean, (bool,), lambda on: str(on).lower())
MODEL = Kind(
    "MODEL",
    "`[NAME=]PATH_OR_HUB_ID[@REVISION]`; a hub id alone has a REVISION, a commit of 40 hex digits: branches move",
    read_source,
    show=lambda models: ", ".join(f"{model.name}={model.location}" for model in models) or "the built-in model",
)
TASK = Kind("TASK", f"`[NAME=]TASK`; TASK is one of {', '.join(TASKS)}", _task, show=_show_told)
GOLDEN = Kind("FILE", "`[NAME=]FILE`", _golden, show=_show_told)
