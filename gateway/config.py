"""
Settings: flags, HEADRACE_* variables and a TOML file become frozen groups.

KEYS in options.py is the one table behind all three, and behind what is told of them (reference.py). Nothing else in
the project reads settings or the environment, and every mistake is reported at once.
"""

import difflib
import re
import tomllib
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gateway.kinds import BOOLEAN, unclear
from gateway.mistakes import Mistake, SettingsError
from gateway.options import BY_NAME, FLAGS, TOML_KEYS, VARIABLES, Key
from inference import DEFAULT_MODEL, EngineConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Group = TypeVar("Group", bound="DataclassInstance")

REQUIRE = "HEADRACE_REQUIRE"  # for the tests: which optional parts they must find
# Kubernetes puts such variables into every pod beside a Service called `headrace` or `headrace-...`.
SERVICE_LINK = re.compile(r"HEADRACE_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_\w+)=.*|HEADRACE_(\w+_)?PORT=\w+://.*")
LOOPBACK = re.compile(r"localhost|::1|127(\.[0-9]+){3}")


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Where the gateway listens, what it takes in, and from whom."""

    host: str = "127.0.0.1"
    port: int = 8000
    metrics_port: int = 9090
    workers: int = 0
    grpc_port: int | None = None
    max_body_bytes: int = 8 * 1024 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    send_timeout_s: float = 30.0
    max_connections: int = 8192
    max_connections_per_address: int = 2048  # a proxy's many callers have one
    connection_age_s: float = 300.0
    allow_anonymous: bool = False
    max_priority: int = 0
    url_prefix: str = "/infinity"
    console: str = "auto"

    @property
    def shows_console(self) -> bool:
        """Whether there is a page at /console: if asked for, or where only this machine can reach it."""
        return self.console == "on" or (self.console == "auto" and LOOPBACK.fullmatch(self.host) is not None)


@dataclass(frozen=True, slots=True)
class DeadlineConfig:
    """How long a call may wait for its answer."""

    default_timeout_s: float = 30.0
    max_timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class DrainConfig:
    """How a stop goes: still accept for the delay, then finish what runs within the timeout."""

    drain_delay_s: float = 5.0
    drain_timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class OidcConfig:
    """Whose tokens open beside keys (empty: nobody's), for which audience, and the claim that names their caller."""

    issuer: str = ""
    audience: str = ""
    jwks: Path | str | None = None  # None: where the issuer says
    caller_claim: str = "sub"


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """
    Who may call: a file of keys (None: everybody whom the address reaches), and pages of which origins.

    The audit log's file (None: standard output), and the Redis that counts limits over all replicas.
    """

    keys: Path | None = None
    audit_log: Path | None = None
    cors_origins: tuple[str, ...] = ()
    redis_url: str | None = None
    oidc: OidcConfig = OidcConfig()


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """PEM files: the server's certificate and key (None: plain HTTP), and whose certificates callers must show."""

    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """What is told beside what the server counts itself."""

    gpus: bool = True


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged: the least level, whether each call gets a line, and how lines are written."""

    level: str = "info"
    access: bool = True
    format: str = "console"


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """Where traces go, if anywhere, and under what name."""

    endpoint: str = ""
    service_name: str = "headrace"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a process. Each object is handed the group it needs, never this."""

    http: HttpConfig = HttpConfig()
    deadlines: DeadlineConfig = DeadlineConfig()
    drain: DrainConfig = DrainConfig()
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()
    trace: TraceConfig = TraceConfig()
    access: AccessConfig = AccessConfig()
    tls: TlsConfig = TlsConfig()
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass(frozen=True, slots=True)
class Given:
    """One value that somebody wrote, and where."""

    key: Key
    where: str
    value: object


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings of this process; SettingsError has every mistake in them."""
    flags, variables = list(_from_flags(arguments)), list(_from_environment(environment))
    file = list(_from_file((_by_key(variables) | _by_key(flags)).get("config", [])))
    chosen = ChainMap(_by_key(flags), _by_key(variables), _by_key(file))
    settings = reduce(_with, chosen.values(), Settings())
    mistakes = [found for found in flags + variables + file if isinstance(found, Mistake)]
    mistakes += _conflicts(settings, chosen, {mistake.key for mistake in mistakes})
    if mistakes:
        raise SettingsError(tuple(mistakes))
    return settings


def _from_flags(arguments: Sequence[str]) -> Iterator[Given | Mistake]:
    groups: list[list[str]] = []  # each flag with the words up to the next one
    for word in arguments:
        if word.startswith("--") or not groups:
            groups.append(word.split("=", 1))
        else:
            groups[-1].append(word)
    return (_flag(flag, values) for flag, *values in groups)


def _flag(flag: str, values: list[str]) -> Given | Mistake:
    key = FLAGS.get(flag)
    if key is None:
        return _unknown(flag, flag, FLAGS)
    if key.kind is BOOLEAN and not values:
        return Given(key, flag, flag == key.flag)
    if len(values) == 1 and values[0] and flag == key.flag:
        return _read(key, flag, values[0])
    if flag != key.flag:
        return Mistake(flag, f"takes no value, not {values}", f"write {flag} alone", key.name)
    told = len(values) if key.kind.secret else values
    problem = f"takes one value, not {told}" if any(values) else "has no value"
    return Mistake(flag, problem, f"write {flag} {key.kind.metavar}".rstrip(), key.name)


def _from_environment(environment: Mapping[str, str]) -> Iterator[Given | Mistake]:
    for variable, text in environment.items():
        key = VARIABLES.get(variable)
        ours = key is not None or variable.startswith("HEADRACE_")
        if not text or not ours or SERVICE_LINK.fullmatch(f"{variable}={text}"):
            continue
        if key:
            parts = [part.strip() for part in text.split(",")] if key.many else [text]
            yield from (_read(key, variable, part) for part in parts)
        elif variable != REQUIRE:
            yield _unknown(variable, variable, VARIABLES)


def _from_file(config: list[Given]) -> Iterator[Given | Mistake]:
    for given in config[-1:]:
        path = Path(str(given.value))
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            yield Mistake(given.where, f"cannot read {str(path)!r}: {error.strerror}", "name a TOML file", "config")
        except ValueError as error:  # not TOML, or not UTF-8
            yield Mistake(str(path), f"is not TOML: {error}", "mend it there", "config")
        else:
            yield from (found for name in table for found in _entry(f"{path}: {name}", name, table[name]))


def _entry(where: str, name: str, value: object) -> Iterator[Given | Mistake]:
    key = TOML_KEYS.get(name.replace("_", "-"))
    if key is None:
        yield _unknown(where, name, TOML_KEYS)
        return
    for item in value if key.many and isinstance(value, list) else [value]:
        native = isinstance(item, key.kind.toml)
        yield _read(key, where, str(item)) if native else _misfit(key, where, item)


def _unknown(where: str, name: str, known: Iterable[str]) -> Mistake:
    near = difflib.get_close_matches(name, known, n=1)
    return Mistake(where, "is not a setting", f"did you mean {near[0]}?" if near else "see `headrace serve --help`")


def _read(key: Key, where: str, text: str) -> Given | Mistake:
    try:
        return Given(key, where, key.kind.parse(text))
    except ValueError:
        return _misfit(key, where, text)


def _misfit(key: Key, where: str, value: object) -> Mistake:
    fix = f"mend it, or leave it out for {key.show(Settings())}"
    said = "what is given" if key.kind.secret else repr(value)
    return Mistake(where, f"{said} is not {key.kind.expects}", fix, key.name)


def _by_key(source: Iterable[Given | Mistake]) -> dict[str, list[Given]]:
    found: dict[str, list[Given]] = {}
    for given in source:
        if isinstance(given, Given):
            found.setdefault(given.key.name, []).append(given)
    return found


def _with(settings: Settings, given: list[Given]) -> Settings:
    """The settings with one key's values put in: all of them if it takes many, else the last."""
    key = given[0].key
    value = tuple(one.value for one in given) if key.many else given[-1].value
    return _put(settings, key.path.split("."), value) if key.path else settings


def _put(group: Group, path: list[str], value: object) -> Group:
    head, *rest = path
    return replace(group, **{head: _put(getattr(group, head), rest, value) if rest else value})


def _conflicts(settings: Settings, chosen: Mapping[str, list[Given]], bad: set[str]) -> Iterator[Mistake]:
    """What does not fit together, judged only where each part could be read."""
    for names, problem, fix in _clashes(settings):
        if bad.isdisjoint({*names, "config"}):
            where = next(chosen[name][-1].where for name in names if name in chosen)
            values = ", ".join(f"{name} {BY_NAME[name].show(settings)}" for name in names)
            yield Mistake(where, f"{values}: {problem}", fix, names[0])


def _clashes(settings: Settings) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """The keys that clash, why, and the fix."""
    http, deadlines, models = settings.http, settings.deadlines, settings.engine.models
    ports = {"port": http.port, "metrics-port": http.metrics_port, "grpc-port": http.grpc_port or 0}
    for one, other in combinations(ports, 2):
        if ports[one] == ports[other] != 0:
            yield (one, other), "both would listen on one port", "change one of them"
    if http.grpc_port is not None and settings.tls.cert is not None:
        yield ("grpc-port", "tls-cert"), "gRPC does not speak TLS", "leave one of them out"
    if http.grpc_port is not None and http.workers > 0:
        yield ("grpc-port", "http-workers"), "HTTP processes do not speak gRPC", "leave one of them out"
    if deadlines.default_timeout_s > deadlines.max_timeout_s:
        yield ("default-timeout-ms", "max-timeout-ms"), "the default is above the maximum", "lower it or raise that"
    keyed = settings.access.keys is not None
    if not keyed and not http.allow_anonymous and not LOOPBACK.fullmatch(http.host):
        problem = "anyone who reaches the address could call"
        yield ("host", "keys", "allow-anonymous"), problem, "add --keys FILE, or --allow-anonymous, or keep 127.0.0.1"
    if keyed and http.allow_anonymous:
        yield ("allow-anonymous", "keys"), "callers need a key, or they do not", "leave one of them out"
    yield from _of_tokens(settings)
    if (settings.tls.cert is None) != (settings.tls.key is None):
        yield ("tls-cert", "tls-key"), "a certificate and its key go together", "name both"
    if settings.tls.client_ca is not None and settings.tls.cert is None:
        yield ("tls-client-ca", "tls-cert"), "callers show certificates over TLS only", "name a certificate and its key"
    yield from _of_control(settings, keyed=keyed)
    names = [model.name for model in models] or [DEFAULT_MODEL.name]
    if len(set(names)) < len(names):
        yield ("model",), "two models of one name", "give one another name, NAME=..."
    for key, told in (("task", settings.engine.tasks), ("golden", settings.engine.goldens)):
        yield from (((key, "model"), *found) for found in unclear(names, told))


def _of_tokens(settings: Settings) -> Iterator[tuple[tuple[str, ...], str, str]]:
    access, oidc = settings.access, settings.access.oidc
    if oidc.issuer and access.keys is None:
        yield ("oidc-issuer", "keys"), "a token names a caller of the key file", "add --keys FILE"
    if bool(oidc.issuer) != bool(oidc.audience):
        yield ("oidc-issuer", "oidc-audience"), "whose tokens, and for whom, go together", "name both"
    if oidc.jwks is not None and not oidc.issuer:
        yield ("oidc-jwks", "oidc-issuer"), "keys of tokens are an issuer's", "name it"


def _of_control(settings: Settings, *, keyed: bool) -> Iterator[tuple[tuple[str, ...], str, str]]:
    http, control = settings.http, settings.engine.control
    if control.mode == "explicit" and not keyed and not LOOPBACK.fullmatch(http.host):
        problem = "anyone who reaches the address could change the models"
        yield ("model-control", "host", "keys"), problem, "add --keys FILE, or keep 127.0.0.1, or --model-control none"
    if control.mode == "explicit" and http.workers:
        yield ("model-control", "http-workers"), "HTTP processes would not learn of it", "leave one of them out"
    if control.root is not None and control.mode == "none":
        yield ("model-root", "model-control"), "nothing can be loaded from it", "add --model-control explicit"
