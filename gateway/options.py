"""The table of settings: what each key is called, takes and means. Knows no source and reads nothing but paths."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
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


@dataclass(frozen=True, slots=True)
class Key:
    """One setting. `path` is its place in Settings, if it may be in a file; `standard` a variable that others read."""

    name: str
    path: str
    kind: Kind
    help: str
    many: bool = False
    standard: str = ""

    @property
    def flag(self) -> str:
        """`--drain-delay`."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """`HEADRACE_DRAIN_DELAY`, or what everybody calls it."""
        return self.standard or f"HEADRACE_{self.name.upper().replace('-', '_')}"

    def show(self, settings: object) -> str:
        """Its value in such Settings, as one would write it."""
        return self.kind.show(attrgetter(self.path)(settings)) if self.path else "none"


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


def _words(*words: str) -> Kind:
    return Kind("WORD", f"one of {', '.join(words)}", partial(_matching, "|".join(words)))


def _whole(unit: str, least: int, most: int) -> Kind:
    expects = f"a whole number{unit} from {least} to {most}"
    return Kind("N", expects, lambda text: _within(int(text), least, most), (int,))


def _time(unit: str, per_second: int, least_s: float) -> Kind:
    return Kind(
        unit.upper(),
        f"a number of {unit} from {least_s * per_second:g} to {DAY_S * per_second}",
        lambda text: _within(float(text) / per_second, least_s, DAY_S),
        (int, float),
        lambda seconds: f"{seconds * per_second:.12g}",
    )


PORT = _whole("", 0, 65_535)
MAYBE_PORT = Kind(
    "N",
    "off, or a whole number from 0 to 65535",
    lambda text: None if text.lower() == "off" else _within(int(text), 0, 65_535),
    (int, str),
    lambda port: "off" if port is None else str(port),
)
BYTES = _whole(" of bytes", 0, 1 << 50)
TOKENS = _whole(" of tokens", 0, 1 << 40)
CONNECTIONS = _whole("", 1, 1 << 20)
SECONDS = _time("seconds", 1, 0.001)
MILLISECONDS = _time("ms", 1000, 0.001)
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

KEYS = (
    Key("config", "", FILE, "TOML file with settings"),
    Key("model", "engine.models", MODEL, "Model to serve, as NAME or the last part of its path; repeatable", many=True),
    Key("task", "engine.tasks", TASK, "What a model is to do, instead of what its files say; repeatable", many=True),
    Key("golden", "engine.goldens", GOLDEN, "Answers a model must give, or it is not served; repeatable", many=True),
    Key(
        "model-control", "engine.control.mode", _words("none", "explicit"), "Whether callers may load and unload models"
    ),
    Key(
        "model-root",
        "engine.control.root",
        MAYBE_FILE,
        "Folder of models that callers may load, beside those of --model",
    ),
    Key("model-memory-bytes", "engine.control.memory_bytes", BYTES, "Weights on a GPU, or on the CPU; 0: what is free"),
    Key("host", "http.host", HOST, "Address to listen on; any but a loopback one needs keys or allow-anonymous"),
    Key("port", "http.port", PORT, "Port of the API; 0 takes any free one"),
    Key("metrics-port", "http.metrics_port", PORT, "Port of the metrics; 0 takes any free one"),
    Key("http-workers", "http.workers", _whole("", 0, 64), "Processes for HTTP beside the engine's; 0: all in one"),
    Key("grpc-port", "http.grpc_port", MAYBE_PORT, "Port of the V2 protocol over gRPC; 0 takes any free one"),
    Key("gpu-metrics", "metrics.gpus", BOOLEAN, "Tell what the driver says of all GPUs that this process sees"),
    Key("allow-anonymous", "http.allow_anonymous", BOOLEAN, "Answer callers without a key on any address"),
    Key("keys", "access.keys", MAYBE_FILE, "API keys, as `headrace keys create` writes them; calls then need one"),
    Key("oidc-issuer", "access.oidc.issuer", ISSUER, "Issuer of tokens (JWT) that open as keys do"),
    Key("oidc-audience", "access.oidc.audience", AUDIENCE, "What tokens must be for: this service's name there"),
    Key("oidc-jwks", "access.oidc.jwks", JWKS, "Where the public keys are that tokens are signed with"),
    Key("oidc-caller-claim", "access.oidc.caller_claim", CLAIM, "Claim whose value is a caller's name in the key file"),
    Key("redis-url", "access.redis_url", REDIS, "Redis that counts callers' limits over all replicas"),
    Key("tls-cert", "tls.cert", MAYBE_FILE, "Certificate chain of this server, PEM; the API is then HTTPS"),
    Key("tls-key", "tls.key", MAYBE_FILE, "Its private key, PEM, without a password"),
    Key("tls-client-ca", "tls.client_ca", MAYBE_FILE, "Authorities, PEM: callers must show a certificate of theirs"),
    Key(
        "cors-origin",
        "access.cors_origins",
        ORIGIN,
        "Origin whose pages may call, in browsers; repeatable",
        many=True,
    ),
    Key("audit-log", "access.audit_log", MAYBE_FILE, "File of refused and admin calls; none: standard output"),
    Key("max-priority", "http.max_priority", _whole("", -9, 9), "Highest class a call may ask for; lower is free"),
    Key("max-body-bytes", "http.max_body_bytes", _whole(" of bytes", 1, 1 << 40), "Largest body of a call"),
    Key("url-prefix", "http.url_prefix", PREFIX, "Path of infinity's dialect; at / or /v1 it is ahead of the others"),
    Key("console", "http.console", _words("auto", "on", "off"), "Page at /console; auto: only on a loopback address"),
    Key("header-timeout", "http.header_timeout_s", SECONDS, "How long a call's head may take to arrive"),
    Key("body-timeout", "http.body_timeout_s", SECONDS, "How long a call's body may take to arrive"),
    Key("send-timeout", "http.send_timeout_s", SECONDS, "How long an answer may lie unread, plus 1 s for 256 KiB"),
    Key("max-connections", "http.max_connections", CONNECTIONS, "Connections in all; more get 503"),
    Key(
        "max-connections-per-address",
        "http.max_connections_per_address",
        CONNECTIONS,
        "Connections from one address, of IPv6 from one /64; more get 429",
    ),
    Key("connection-age", "http.connection_age_s", SECONDS, "Age, more or less a quarter, at which a connection ends"),
    Key("latency-target-ms", "engine.limits.latency_target_s", MILLISECONDS, "Latency that callers should see"),
    Key("batch-share", "engine.limits.batch_share", SHARE, "Part of the latency target that a batch may take"),
    Key("default-timeout-ms", "deadlines.default_timeout_s", MILLISECONDS, "Timeout of a call that names none"),
    Key("max-timeout-ms", "deadlines.max_timeout_s", MILLISECONDS, "Longest timeout that a call may name"),
    Key("drain-delay", "drain.drain_delay_s", _time("seconds", 1, 0), "How long a stop still accepts calls"),
    Key("drain-timeout", "drain.drain_timeout_s", SECONDS, "How long accepted calls may take after that"),
    Key("device", "engine.device.devices", DEVICES, "Where models run: a replica on each; the CPU may be named twice"),
    Key("dtype", "engine.device.dtype", _words("auto", "float32", "float16", "bfloat16"), "Numbers models compute in"),
    Key("threads", "engine.device.threads", _whole("", 0, 4096), "CPU threads in all; 0 leaves the choice to torch"),
    Key("max-batch-tokens", "engine.limits.max_batch_tokens", TOKENS, "Tokens in one batch; 0: the device's default"),
    Key("max-waiting-tokens", "engine.limits.max_waiting_tokens", TOKENS, "Tokens that may wait; more are refused"),
    Key("stuck-after", "engine.limits.stuck_after_s", SECONDS, "Longest batch, or 10 x its prediction; then exit 1"),
    Key("cache-bytes", "engine.limits.cache_bytes", _whole("", 0, 1 << 40), "Finished answers to keep; 0: none"),
    Key("max-items", "engine.limits.max_items", _whole("", 1, 1 << 20), "Inputs in one call"),
    Key("auto-truncate", "engine.auto_truncate", BOOLEAN, "Cut inputs that are too long instead of refusing them"),
    Key("cache-dir", "engine.cache_dir", FILE, "Where fetched models are kept"),
    Key("log-level", "log.level", _words("debug", "info", "warning", "error"), "Least level that is logged"),
    Key("access-log", "log.access", BOOLEAN, "Log a line for each call"),
    Key("log-format", "log.format", _words("console", "json"), "How log lines are written"),
    Key(
        "otlp-endpoint",
        "trace.endpoint",
        URL,
        "Collector that traces go to, by OTLP over HTTP; none: no traces",
        standard="OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    Key(
        "service-name",
        "trace.service_name",
        NAME,
        "What this service is called in traces",
        standard="OTEL_SERVICE_NAME",
    ),
)
BY_NAME = {key.name: key for key in KEYS}
TOML_KEYS = {key.name: key for key in KEYS if key.path}
VARIABLES = {key.variable: key for key in KEYS}
FLAGS = {key.flag: key for key in KEYS} | {f"--no-{key.name}": key for key in KEYS if key.kind is BOOLEAN}
