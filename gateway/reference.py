"""What is told of the settings: the help of `headrace serve`, and CONFIGURATION.md."""

from gateway.config import Settings
from gateway.options import KEYS

USAGE = "usage: headrace serve [--key VALUE | --key=VALUE | --switch | --no-switch]...\n"
PREFACE = """# Configuration

A flag wins over its environment variable, a variable over the TOML file (`--config`), the file over the default.
An empty variable counts as unset; several models (and what is told about them: task, golden) are flags, a variable
parted by commas, or a list; `--no-` negates.
Every mistake is reported at once, before anything starts. `headrace settings` prints this file.
Where traces are on, OpenTelemetry's library reads more variables of its own: `OTEL_TRACES_SAMPLER`,
`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES` and the like.
"""


def usage() -> str:
    """What `headrace serve --help` prints."""
    rows = [(f"{key.flag} {key.kind.metavar}", f"{key.help} [{key.show(Settings())}]") for key in KEYS]
    return "\n".join([USAGE, *(f"  {left:<27}{right}" for left, right in rows)])


def reference() -> str:
    """All keys as a Markdown table."""
    rows = [["Flag", "Variable", "TOML key", "Default", "Meaning"], ["---"] * 5]
    for key in KEYS:
        names = [key.flag, key.variable, key.name if key.path else "none", key.show(Settings())]
        rows.append([*(f"`{name}`" for name in names), f"{key.help}. Takes {key.kind.expects}."])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def document() -> str:
    """CONFIGURATION.md, but for its last newline."""
    return f"{PREFACE}\n{reference()}"
