"""The table of settings: what each key is called, takes and means. Knows no source, and reads nothing."""

from dataclasses import dataclass
from operator import attrgetter

from gateway.kinds import (
    AUDIENCE,
    BOOLEAN,
    BYTES,
    CLAIM,
    CONNECTIONS,
    DEVICES,
    FILE,
    GOLDEN,
    HOST,
    ISSUER,
    JWKS,
    MAYBE_FILE,
    MAYBE_PORT,
    MILLISECONDS,
    MODEL,
    NAME,
    ORIGIN,
    PORT,
    PREFIX,
    REDIS,
    SECONDS,
    SHARE,
    TASK,
    TOKENS,
    URL,
    Kind,
    time,
    whole,
    words,
)


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


KEYS = (
    Key("config", "", FILE, "TOML file with settings"),
    Key("model", "engine.models", MODEL, "Model to serve, as NAME or the last part of its path; repeatable", many=True),
    Key("task", "engine.tasks", TASK, "What a model is to do, instead of what its files say; repeatable", many=True),
    Key("golden", "engine.goldens", GOLDEN, "Answers a model must give, or it is not served; repeatable", many=True),
    Key(
        "model-control", "engine.control.mode", words("none", "explicit"), "Whether callers may load and unload models"
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
    Key("http-workers", "http.workers", whole("", 0, 64), "Processes for HTTP beside the engine's; 0: all in one"),
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
    Key("max-priority", "http.max_priority", whole("", -9, 9), "Highest class a call may ask for; lower is free"),
    Key("max-body-bytes", "http.max_body_bytes", whole(" of bytes", 1, 1 << 40), "Largest body of a call"),
    Key("url-prefix", "http.url_prefix", PREFIX, "Path of infinity's dialect; at / or /v1 it is ahead of the others"),
    Key("console", "http.console", words("auto", "on", "off"), "Page at /console; auto: only on a loopback address"),
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
    Key("drain-delay", "drain.drain_delay_s", time("seconds", 1, 0), "How long a stop still accepts calls"),
    Key("drain-timeout", "drain.drain_timeout_s", SECONDS, "How long accepted calls may take after that"),
    Key("device", "engine.device.devices", DEVICES, "Where models run: a replica on each; the CPU may be named twice"),
    Key("dtype", "engine.device.dtype", words("auto", "float32", "float16", "bfloat16"), "Numbers models compute in"),
    Key("threads", "engine.device.threads", whole("", 0, 4096), "CPU threads in all; 0 leaves the choice to torch"),
    Key("max-batch-tokens", "engine.limits.max_batch_tokens", TOKENS, "Tokens in one batch; 0: the device's default"),
    Key("max-waiting-tokens", "engine.limits.max_waiting_tokens", TOKENS, "Tokens that may wait; more are refused"),
    Key("stuck-after", "engine.limits.stuck_after_s", SECONDS, "Longest batch, or 10 x its prediction; then exit 1"),
    Key("cache-bytes", "engine.limits.cache_bytes", whole("", 0, 1 << 40), "Finished answers to keep; 0: none"),
    Key("max-items", "engine.limits.max_items", whole("", 1, 1 << 20), "Inputs in one call"),
    Key("auto-truncate", "engine.auto_truncate", BOOLEAN, "Cut inputs that are too long instead of refusing them"),
    Key("cache-dir", "engine.cache_dir", FILE, "Where fetched models are kept"),
    Key("log-level", "log.level", words("debug", "info", "warning", "error"), "Least level that is logged"),
    Key("access-log", "log.access", BOOLEAN, "Log a line for each call"),
    Key("log-format", "log.format", words("console", "json"), "How log lines are written"),
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
