"""Settings: the same from flags, variables and file; every mistake found, all at once."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import OidcConfig, Settings, TraceConfig, load
from gateway.kinds import BOOLEAN
from gateway.mistakes import Mistake, SettingsError
from gateway.options import KEYS, Key
from inference import EngineConfig, ForModel, ModelSource

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BY_NAME = {key.name: key for key in KEYS}
LISTED = [key for key in KEYS if key.path]


def mistakes(arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> tuple[Mistake, ...]:
    with pytest.raises(SettingsError) as caught:
        load(arguments, environment or {})
    return caught.value.mistakes


def mistake(*arguments: str) -> str:
    [only] = mistakes(arguments)
    return str(only)


def written(folder: Path, text: str) -> str:
    path = folder / "headrace.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def leaves(group: object, path: str = "") -> dict[str, object]:
    """Every setting with its place, as KEYS spells it."""
    if not is_dataclass(group):
        return {path: group}
    return {
        name: value
        for one in fields(group)
        for name, value in leaves(getattr(group, one.name), f"{path}.{one.name}".lstrip(".")).items()
    }


def model(*arguments: str) -> ModelSource:
    [source] = load([f"--model={argument}" for argument in arguments], {}).engine.models
    return source


def test_nothing_given_means_the_defaults() -> None:
    settings = load([], {})

    assert settings == Settings()
    assert settings.engine == EngineConfig()


def test_every_setting_of_the_gateway_has_a_key() -> None:
    settings = {name for name in leaves(Settings()) if not name.startswith("engine.limits.")}

    missing = settings - {key.path for key in KEYS}

    assert missing == set()


@pytest.mark.parametrize("key", LISTED, ids=lambda key: key.name)
def test_a_key_names_a_place_that_exists(key: Key) -> None:
    assert key.path in leaves(Settings())


@pytest.mark.parametrize("name", [key.name for key in LISTED if not key.many])
def test_a_default_as_it_is_shown_is_the_default_when_written(name: str) -> None:
    shown = BY_NAME[name].show(Settings())

    settings = load([f"--{name}={shown}"], {})

    assert settings == Settings()


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = written(tmp_path, "port = 1\nmax-items = 1\nthreads = 1\n")
    environment = {"HEADRACE_CONFIG": file, "HEADRACE_PORT": "2", "HEADRACE_MAX_ITEMS": "2"}

    settings = load(["--port", "3"], environment)

    assert settings.http.port == 3
    assert settings.engine.limits.max_items == 2
    assert settings.engine.device.threads == 1
    assert settings.http.metrics_port == 9090


def test_the_file_named_by_a_flag_is_read_instead_of_that_of_the_variable(tmp_path: Path) -> None:
    file = written(tmp_path, "port = 1")

    settings = load(["--config", file], {"HEADRACE_CONFIG": "/nowhere.toml"})

    assert settings.http.port == 1


def test_models_of_a_stronger_source_replace_all_of_a_weaker_one() -> None:
    settings = load(["--model", "a/b"], {"HEADRACE_MODEL": "c/d,e/f"})

    assert settings.engine.models == (ModelSource("b", "a/b"),)


def test_of_a_flag_given_twice_the_last_one_counts() -> None:
    assert load(["--port", "1", "--port=2"], {}).http.port == 2


@pytest.mark.parametrize("name", ["PORT", "LOG_LEVEL", "MODEL", "AUTO_TRUNCATE", "CONFIG", "NO_SUCH"])
def test_an_empty_variable_counts_as_unset(name: str) -> None:
    assert load([], {f"HEADRACE_{name}": ""}) == Settings()


def test_variables_that_are_not_ours_are_left_alone() -> None:
    environment = {"PATH": "/bin", "PORT": "x", "HEADRACE_REQUIRE": "torch", "headrace_port": "x"}

    assert load([], environment) == Settings()


def test_what_kubernetes_writes_for_a_service_of_our_name_is_left_alone() -> None:
    environment = {
        "HEADRACE_PORT": "tcp://10.0.0.1:80",
        "HEADRACE_PORT_80_TCP_ADDR": "10.0.0.1",
        "HEADRACE_SERVICE_HOST": "10.0.0.1",
        "HEADRACE_SERVICE_PORT_HTTP": "80",
        "HEADRACE_METRICS_PORT": "tcp://10.0.0.2:9090",
        "HEADRACE_METRICS_SERVICE_PORT": "9090",
    }

    assert load([], environment) == Settings()


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("YES", True), ("false", False), ("0", False)]
)
def test_a_boolean_variable_takes_the_usual_words(text: str, value: bool) -> None:
    assert load([], {"HEADRACE_AUTO_TRUNCATE": text}).engine.auto_truncate is value


@pytest.mark.parametrize("name", [key.name for key in KEYS if key.kind is BOOLEAN])
def test_a_switch_is_turned_on_by_its_flag_and_off_by_its_negative(name: str) -> None:
    on, off = load([f"--{name}"], {}), load([f"--no-{name}"], {})

    assert leaves(on)[BY_NAME[name].path] is True
    assert leaves(off)[BY_NAME[name].path] is False


def test_milliseconds_become_seconds() -> None:
    assert load(["--latency-target-ms", "250"], {}).engine.limits.latency_target_s == 0.25


def test_a_toml_key_may_be_written_with_underscores(tmp_path: Path) -> None:
    file = written(tmp_path, "drain_delay = 1\ndrain-timeout = 2.5")

    settings = load(["--config", file], {})

    assert settings.drain.drain_delay_s == 1.0
    assert settings.drain.drain_timeout_s == 2.5


def test_a_cache_dir_may_start_at_home() -> None:
    assert load([], {"HEADRACE_CACHE_DIR": "~/models"}).engine.cache_dir == Path.home() / "models"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BAAI/bge-small-en-v1.5", ModelSource("bge-small-en-v1.5", "BAAI/bge-small-en-v1.5")),
        ("/models/minilm/", ModelSource("minilm", "/models/minilm/")),
        ("gpt2", ModelSource("gpt2", "gpt2")),
        ("small=BAAI/bge", ModelSource("small", "BAAI/bge")),
        (f"BAAI/bge@{COMMIT}", ModelSource("bge", "BAAI/bge", COMMIT)),
        (f"small=BAAI/bge@{COMMIT}", ModelSource("small", "BAAI/bge", COMMIT)),
    ],
)
def test_a_model_is_named_or_takes_the_last_part_of_its_place(text: str, expected: ModelSource) -> None:
    assert model(text) == expected


def test_signs_in_the_name_of_a_folder_that_exists_are_part_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "a=b" / f"bge@{COMMIT}"
    folder.mkdir(parents=True)

    assert model(f"bge={folder}") == ModelSource("bge", str(folder))


@pytest.mark.parametrize(
    "text",
    ["BAAI/bge@main", f"BAAI/bge@{COMMIT[:-1]}", "BAAI/bge@", f"/models/none@{COMMIT}", "a b", "a/b/c", "/", "../.."],
)
def test_a_model_that_cannot_be_told_apart_is_a_mistake(text: str) -> None:
    found = mistake("--model", text)

    assert found.startswith(f"--model: {text!r} is not `[NAME=]PATH_OR_HUB_ID[@REVISION]`")
    assert "commit of 40 hex digits" in found


def test_a_folder_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path)

    assert "--model" in mistake("--model", f"minilm@{COMMIT}")


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(["--model", "a/b", "--model", "c=d/e"], {}), ([], {"HEADRACE_MODEL": "a/b, c=d/e"})],
)
def test_several_models_are_flags_or_one_variable(arguments: list[str], environment: dict[str, str]) -> None:
    settings = load(arguments, environment)

    assert settings.engine.models == (ModelSource("b", "a/b"), ModelSource("c", "d/e"))


@pytest.mark.parametrize(
    ("text", "names"), [('model = ["a/b", "c"]', ["b", "c"]), ('model = "a"', ["a"]), ("model = []", [])]
)
def test_models_in_a_file_are_a_list_or_one_text(tmp_path: Path, text: str, names: list[str]) -> None:
    settings = load(["--config", written(tmp_path, text)], {})

    assert [source.name for source in settings.engine.models] == names


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--task", "embed"], ForModel(None, "embed")),
        (["--model", "a/b", "--task", "token-classify"], ForModel(None, "token-classify")),
        (["--model", "a/b", "--model", "c/d", "--task", "d=rerank"], ForModel("d", "rerank")),
    ],
)
def test_a_task_is_told_for_one_model_or_for_the_only_one(arguments: list[str], expected: ForModel[object]) -> None:
    assert load(arguments, {}).engine.tasks == (expected,)


def test_signs_in_the_name_of_a_golden_file_that_exists_are_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "a=b.json"
    file.touch()

    [alone] = load(["--golden", str(file)], {}).engine.goldens
    [named] = load(["--model", "m=a/b", "--golden", f"m={file}"], {}).engine.goldens

    assert alone == ForModel(None, file)
    assert named == ForModel("m", file)


@pytest.mark.parametrize("text", ["translate", "=embed", "m=", "a b=embed", "m=embed=x", "Embed"])
def test_a_task_that_is_none_is_a_mistake(text: str) -> None:
    assert "TASK is one of embed, rerank," in mistake("--task", text)


@pytest.mark.parametrize("text", ["=x.json", "m=", "a b=x.json"])
def test_a_golden_file_of_no_name_is_a_mistake(text: str) -> None:
    assert "is not `[NAME=]FILE`" in mistake("--golden", text)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--prot", "80"], "--prot: is not a setting; did you mean --port?"),
        (["--drain_delay=1"], "--drain_delay: is not a setting; did you mean --drain-delay?"),
        (["serve"], "serve: is not a setting; see `headrace serve --help`"),
        (["--no-port"], "--no-port: is not a setting; did you mean --port?"),
        (["--port"], "--port: has no value; write --port N"),
        (["--port="], "--port: has no value; write --port N"),
        (["--port", "--no-access-log"], "--port: has no value; write --port N"),
        (["--port", "1", "2"], "--port: takes one value, not ['1', '2']; write --port N"),
        (["--no-access-log=1"], "--no-access-log: takes no value, not ['1']; write --no-access-log alone"),
        (["--port", "x"], "--port: 'x' is not a whole number from 0 to 65535; mend it, or leave it out for 8000"),
    ],
)
def test_a_mistake_says_where_what_and_the_fix(arguments: list[str], expected: str) -> None:
    assert mistake(*arguments) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("metrics-port", "8.5"),
        ("http-workers", "-1"),
        ("http-workers", "65"),
        ("host", "127.0.0.1:80"),
        ("host", "a b"),
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("device", "cpu,cuda:0"),
        ("device", "auto,cpu"),
        ("device", "cuda:01"),
        ("device", "cpu,"),
        ("dtype", "int8"),
        ("threads", "-1"),
        ("max-batch-tokens", "-1"),
        ("max-waiting-tokens", "many"),
        ("max-items", "0"),
        ("max-body-bytes", "0"),
        ("latency-target-ms", "0"),
        ("default-timeout-ms", "-5"),
        ("drain-delay", "-0.1"),
        ("drain-timeout", "0"),
        ("header-timeout", "nan"),
        ("body-timeout", "inf"),
        ("auto-truncate", "maybe"),
        ("log-level", "loud"),
        ("cache-dir", " "),
        ("otlp-endpoint", "collector:4318"),
        ("otlp-endpoint", "grpc://collector:4317"),
        ("otlp-endpoint", "http://"),
        ("otlp-endpoint", "http://user:secret@collector"),
        ("otlp-endpoint", "http://collector/?key=x"),
        ("otlp-endpoint", "http://collector:0"),
        ("service-name", "a b"),
        ("log-format", "xml"),
    ],
)
def test_a_value_out_of_range_is_shown_with_what_is_expected(name: str, value: str) -> None:
    key = BY_NAME[name]

    [found] = mistakes([], {key.variable: value})

    assert str(found).startswith(f"{key.variable}: {value!r} is not {key.kind.expects};")
    assert found.key == name


@pytest.mark.parametrize(
    "text", ['port = "80"', "port = true", "port = 8.0", "host = 1", "auto-truncate = 1", "model = [1]", "port = [1]"]
)
def test_a_value_of_another_type_is_a_mistake_of_the_file(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text)

    found = mistake("--config", file)

    assert found.startswith(f"{file}: {text.split(maxsplit=1)[0]}: ")


@pytest.mark.parametrize("name", ["prot", "config", "host-"])
def test_an_unknown_key_of_the_file_is_a_mistake(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, f'{name} = "x"')

    assert mistake("--config", file).startswith(f"{file}: {name}: is not a setting; ")


def test_traces_are_switched_on_by_the_variable_that_everybody_knows() -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/", "OTEL_SERVICE_NAME": "search"}

    settings = load([], environment | {"OTEL_TRACES_SAMPLER": "always_off"})

    assert settings.trace == TraceConfig("http://collector:4318", "search")


def test_an_unknown_variable_is_told_the_nearest_one() -> None:
    [found] = mistakes([], {"HEADRACE_PROT": "80"})

    assert str(found) == "HEADRACE_PROT: is not a setting; did you mean HEADRACE_PORT?"


def test_a_missing_file_is_a_mistake_of_whoever_named_it() -> None:
    [found] = mistakes([], {"HEADRACE_CONFIG": "/nowhere.toml"})

    assert str(found) == "HEADRACE_CONFIG: cannot read '/nowhere.toml': No such file or directory; name a TOML file"


def test_a_malformed_file_is_reported_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, "port = 1\nhost is here\n")

    found = mistake("--config", file)

    assert found.startswith(f"{file}: is not TOML: ")
    assert "line 2" in found


def test_a_file_that_is_not_utf8_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'host = "\xff"')

    assert "is not TOML" in mistake("--config", str(tmp_path / "latin.toml"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--metrics-port=8000"], "--metrics-port: port 8000, metrics-port 8000: both would listen on one port;"),
        (
            ["--grpc-port=1", "--http-workers=2"],
            "--grpc-port: grpc-port 1, http-workers 2: HTTP processes do not",
        ),
        (["--grpc-port=9090"], "--grpc-port: metrics-port 9090, grpc-port 9090: both would listen on one port;"),
        (["--max-timeout-ms=9"], "--max-timeout-ms: default-timeout-ms 30000, max-timeout-ms 9: the default is above"),
        (
            ["--host=0.0.0.0"],
            "--host: host 0.0.0.0, keys none, allow-anonymous false: anyone who reaches the address could call; add",
        ),
        (
            ["--keys=k", "--allow-anonymous"],
            "--allow-anonymous: allow-anonymous true, keys k: callers need a key, or they do not; leave",
        ),
        (["--tls-cert=c"], "--tls-cert: tls-cert c, tls-key none: a certificate and its key go together; name both"),
        (["--tls-client-ca=a"], "--tls-client-ca: tls-client-ca a, tls-cert none: callers show certificates over TLS"),
        (["--model=a/b", "--model=c/b"], "--model: model b=a/b, b=c/b: two models of one name;"),
        (
            ["--model=a/b", "--model=c/d", "--task=embed"],
            "--task: task the model=embed, model b=a/b, d=c/d: there are several models; say which is meant, b=...",
        ),
        (["--model=a/b", "--task=c=embed"], "--task: task c=embed, model b=a/b: no model c is served; name one of b"),
        (["--task=m=embed"], "--task: task m=embed, model the built-in model: no model m is served; name one of all-"),
        (
            ["--task=embed", "--task=rerank"],
            "--task: task the model=embed, the model=rerank, model",
        ),
        (
            ["--model=a/b", "--task=embed", "--task=b=rerank"],
            "--task: task the model=embed, b=rerank, model b=a/b: one model is told twice; keep one of them",
        ),
        (["--golden=m=x.json"], "--golden: golden m=x.json, model the built-in model: no model m is served;"),
    ],
)
def test_values_that_do_not_fit_together_are_a_mistake(arguments: list[str], expected: str) -> None:
    assert mistake(*arguments).startswith(expected)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port=0", "--metrics-port=0"],
        ["--host=0.0.0.0", "--allow-anonymous"],
        ["--host=0.0.0.0", "--keys=k"],
        ["--host=localhost"],
        ["--host=127.0.0.2"],
        ["--host=::1"],
        ["--default-timeout-ms=5", "--max-timeout-ms=5"],
        ["--model=a/b", "--model=other=c/b"],
        ["--model=a/b", "--model=other=c/b", "--task=b=embed", "--task=other=rerank", "--golden=b=x.json"],
    ],
)
def test_values_that_fit_together_are_taken(arguments: list[str]) -> None:
    assert isinstance(load(arguments, {}), Settings)


@pytest.mark.parametrize("host", ["::", "10.0.0.1", "headrace.example", "127.0.0.1.example"])
def test_any_host_but_a_loopback_one_needs_consent(host: str) -> None:
    said = mistake("--host", host)
    assert "--keys FILE" in said
    assert "--allow-anonymous" in said


def test_values_that_cannot_be_read_are_not_blamed_for_not_fitting() -> None:
    [found] = mistakes(["--host", "0.0.0.0", "--allow-anonymous=perhaps"])

    assert found.where == "--allow-anonymous"


def test_every_mistake_of_every_source_is_reported_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, 'threads = "two"\nlatency = 5\n')
    arguments = ["--config", file, "--prot", "80", "--dtype", "int8", "--host", "0.0.0.0", "--max-items"]
    environment = {"HEADRACE_PORT": "x", "HEADRACE_NOTHING": "1", "HEADRACE_DRAIN_DELAY": "-1"}

    found = mistakes([*arguments], environment)

    assert [one.where for one in found] == [
        "--prot",
        "--dtype",
        "--max-items",
        "HEADRACE_PORT",
        "HEADRACE_NOTHING",
        "HEADRACE_DRAIN_DELAY",
        f"{file}: threads",
        f"{file}: latency",
        "--host",
    ]
    assert len(str(SettingsError(found)).splitlines()) == len(found)


@given(st.lists(st.text()), st.dictionaries(st.text().map("HEADRACE_".__add__), st.text()))
def test_whatever_is_written_gives_settings_or_one_line_a_mistake(
    words: list[str], environment: dict[str, str]
) -> None:
    found: tuple[Mistake, ...] = ()

    try:
        load(words, environment)
    except SettingsError as error:
        found = error.mistakes

    assert len(str(SettingsError(found)).splitlines()) == len(found)


times = st.integers(1, 10_000)
values: dict[str, st.SearchStrategy[object]] = {
    "host": st.sampled_from(["127.0.0.1", "localhost", "::1"]),
    "port": st.integers(0, 9089),  # below the default of metrics-port
    "metrics-port": st.integers(30_001, 65_535),
    "http-workers": st.integers(0, 64),
    "grpc-port": st.just("off"),  # does not go with http-workers
    "max-body-bytes": st.integers(1, 10**9),
    "header-timeout": times,
    "body-timeout": st.floats(0.01, 100),
    "gpu-metrics": st.booleans(),
    "send-timeout": st.floats(0.01, 100),
    "max-connections": st.integers(1, 1 << 20),
    "max-connections-per-address": st.integers(1, 1 << 20),
    "connection-age": st.floats(0.01, 1000),
    "allow-anonymous": st.booleans(),
    "keys": st.sampled_from(["/etc/keys", "~/keys", "keys"]),
    "cors-origin": st.lists(st.sampled_from(["https://a.example", "http://[::1]:3000"]), unique=True, min_size=1),
    "oidc-issuer": st.sampled_from(["https://issuer.example", "https://issuer.example/"]),
    "oidc-audience": st.sampled_from(["headrace", "api://headrace"]),
    "oidc-jwks": st.sampled_from(["/etc/jwks", "https://issuer.example/keys"]),
    "oidc-caller-claim": st.sampled_from(["sub", "azp"]),
    "redis-url": st.sampled_from(["redis://redis:6379/0", "rediss://:x@redis", "unix:///run/redis"]),
    "tls-cert": st.sampled_from(["/etc/tls.crt", "tls.crt"]),
    "tls-key": st.sampled_from(["/etc/tls.key", "tls.key"]),
    "tls-client-ca": st.sampled_from(["/etc/ca.crt"]),
    "audit-log": st.sampled_from(["/var/log/audit", "~/audit"]),
    "latency-target-ms": st.floats(1, 1000),
    "default-timeout-ms": times,
    "max-timeout-ms": st.integers(30_000, 90_000),
    "drain-delay": st.floats(0, 100),
    "drain-timeout": times,
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:1", "cpu,cpu", "cuda:0,cuda:1"]),
    "dtype": st.sampled_from(["auto", "float32", "float16", "bfloat16"]),
    "threads": st.integers(0, 64),
    "max-batch-tokens": st.integers(0, 10**6),
    "max-waiting-tokens": st.integers(0, 10**7),
    "max-priority": st.integers(-9, 9),
    "batch-share": st.floats(0.01, 1),
    "stuck-after": times,
    "cache-bytes": st.integers(0, 10**9),
    "max-items": st.integers(1, 4096),
    "auto-truncate": st.booleans(),
    "cache-dir": st.sampled_from(["/tmp/cache", "~/cache", "cache"]),
    "log-level": st.sampled_from(["debug", "info", "warning", "error"]),
    "access-log": st.booleans(),
    "log-format": st.sampled_from(["console", "json"]),
    "otlp-endpoint": st.sampled_from(["none", "http://collector:4318", "https://[::1]/otlp/"]),
    "service-name": st.sampled_from(["headrace", "team/search.v2"]),
    "console": st.sampled_from(["auto", "on", "off"]),
    "url-prefix": st.sampled_from(["/", "/v1", "/a/b/"]),
    "model-control": st.sampled_from(["none", "explicit"]),
    "model-root": st.sampled_from(["/models", "models", "~/models"]),
    "model-memory-bytes": st.integers(0, 10**12),
    "model": st.lists(st.sampled_from(["a/b", "c=d", f"e/f@{COMMIT}", "/g/h/"]), unique=True, min_size=1),
    "task": st.lists(st.sampled_from(["b=rerank", "c=embed", "f=sparse"]), unique=True, min_size=1),
    "golden": st.lists(st.sampled_from(["b=b.json", "c=/c/d.json", "f=~/f"]), unique=True, min_size=1),
}


def with_told_models(chosen: dict[str, object]) -> dict[str, object]:
    """What is told about models is about some that are served, and a root is there to be loaded from."""
    served = {"model": ["a/b", "c=d", "e/f"]} if {"task", "golden"} & chosen.keys() else {}
    explicit = {"model-control": "explicit"} if "model-root" in chosen else {}
    told = chosen | served | explicit
    return told | ({"http-workers": 0} if told.get("model-control") == "explicit" and "http-workers" in told else {})


def texts(value: object) -> list[str]:
    if isinstance(value, list):
        return value
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else texts(value)[0]


def with_both_of_tls(chosen: dict[str, object]) -> dict[str, object]:
    """A certificate and its key go together, and authorities of callers with them."""
    tls: dict[str, object] = {"tls-cert": "c", "tls-key": "k"}
    return tls | chosen if {*tls, "tls-client-ca"} & chosen.keys() else chosen


def with_one_lock(chosen: dict[str, object]) -> dict[str, object]:
    """Callers need a key, or they do not."""
    return chosen | {"allow-anonymous": False} if {"keys", "allow-anonymous"} <= chosen.keys() else chosen


def with_all_of_tokens(chosen: dict[str, object]) -> dict[str, object]:
    """Tokens have an issuer and an audience, and name callers of the key file."""
    oidc: dict[str, object] = {"oidc-issuer": "https://issuer.example", "oidc-audience": "headrace", "keys": "k"}
    return oidc | chosen if any(name.startswith("oidc-") for name in chosen) else chosen


GIVEN = st.fixed_dictionaries({}, optional=values).map(with_told_models).map(with_all_of_tokens)


@given(GIVEN.map(with_one_lock).map(with_both_of_tls))
def test_settings_are_the_same_as_flags_as_variables_and_as_a_file(given_values: dict[str, object]) -> None:
    flags = [f"--{name}={text}" for name, value in given_values.items() for text in texts(value)]
    environment = {BY_NAME[name].variable: ",".join(texts(value)) for name, value in given_values.items()}
    lines = "\n".join(f"{name} = {toml(value)}" for name, value in given_values.items())

    with TemporaryDirectory() as folder:
        from_file = load(["--config", written(Path(folder), lines)], {})

    assert load(flags, {}) == load([], environment) == from_file


def test_the_property_above_knows_every_key() -> None:
    assert values.keys() == {key.name for key in LISTED}


@pytest.mark.parametrize(
    ("told", "prefix"), [("/", ""), ("/v1", "/v1"), ("/v1/", "/v1"), ("/a/b", "/a/b"), ("/a.b-c_d~", "/a.b-c_d~")]
)
def test_a_prefix_is_a_path_without_its_last_slash(told: str, prefix: str) -> None:
    assert load(["--url-prefix", told], {}).http.url_prefix == prefix


@pytest.mark.parametrize("told", ["v1", "//", "/a//b", "/{name}", "/a b", "/ä", "/a?b", "/a#b", "http://a"])
def test_what_is_no_prefix_is_refused(told: str) -> None:
    with pytest.raises(SettingsError, match="a path such as"):
        load(["--url-prefix", told], {})


def test_a_password_in_a_url_is_shown_nowhere() -> None:
    said = [str(one) for one in mistakes(["--redis-url=redis://:hunter2@redis", "--prot=1"])]
    settings = load(["--redis-url=redis://:hunter2@redis"], {})

    assert "hunter2" not in BY_NAME["redis-url"].show(settings) + "".join(said)


@pytest.mark.parametrize(
    "wrong", ["redi://:hunter2@redis", "redis://:hunter2 @redis", "hunter2", "redis:/:hunter2@redis"]
)
def test_a_url_with_a_password_that_cannot_be_read_is_not_repeated(wrong: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'redis-url = "{wrong}"')

    for arguments, variables in (
        ([f"--redis-url={wrong}"], {}),
        (["--redis-url", wrong, wrong], {}),
        ([], {"HEADRACE_REDIS_URL": wrong}),
        (["--config", str(file)], {}),
    ):
        with pytest.raises(SettingsError) as caught:
            load(arguments, variables)

        assert "redis-url" in str(caught.value).lower().replace("_", "-")
        assert "hunter2" not in str(caught.value)


def test_tokens_need_a_key_file_and_an_audience() -> None:
    issuer = "--oidc-issuer=https://issuer.example/"

    said = {
        words: str(mistakes(list(words)))
        for words in (
            (issuer, "--oidc-audience=a"),
            (issuer, "--keys=k"),
            ("--oidc-audience=a", "--keys=k"),
            ("--oidc-jwks=k",),
        )
    }
    settings = load([issuer, "--oidc-audience=a", "--keys=k", "--oidc-jwks=https://issuer.example/keys"], {})

    assert all("go together" in text or "add --keys" in text or "name it" in text for text in said.values())
    assert settings.access.oidc == OidcConfig("https://issuer.example/", "a", "https://issuer.example/keys")
    assert load([issuer, "--oidc-audience=a", "--keys=k", "--oidc-jwks=k"], {}).access.oidc.jwks == Path("k")


@pytest.mark.parametrize(
    "wrong",
    [
        *("http://issuer.example", "https://", "issuer.example", "https://user:word@issuer", "file:///keys"),
        *("https://issuer/?a=b", "https://issuer/#a", "https://iss uer", "http://127.0.0.1.example"),
    ],
)
def test_what_is_believed_comes_over_https(wrong: str) -> None:
    with pytest.raises(SettingsError, match="https://"):
        load(["--oidc-issuer", wrong, "--oidc-audience", "a", "--keys", "k"], {})
