"""`headrace` and `python -m gateway`: hand over to a command."""

import os
import sys

from gateway import __version__
from inference import share_one_heap

USAGE = f"""headrace {__version__}: a high-throughput inference gateway

usage: headrace COMMAND [--key VALUE ...]

  serve      serve models over HTTP; `headrace serve --help` lists every key
  fetch      bring those models into the cache, and end; takes the keys of serve
  profile    measure what the models can do on this device; takes the keys of serve and --output FILE
  models     say what checkpoints are without serving them; `headrace models --help`
  keys       make, list and revoke the API keys that callers need; `headrace keys --help`
  plan       recommend how to scale for a trace of arrivals; `headrace plan --help`
  settings   print the reference of all keys
"""


def main() -> int:
    """Run the command that the command line names."""
    name, *arguments = sys.argv[1:] or [""]
    share_one_heap()
    _share_one_core()
    from gateway import commands, key_commands  # noqa: PLC0415 - numpy and torch start threads when they are imported

    known = {
        "serve": commands.serve,
        "fetch": commands.fetch,
        "profile": commands.profile,
        "models": commands.models,
        "keys": key_commands.keys,
        "plan": commands.plan,
        "settings": commands.print_settings,
        "child": commands.child,  # not for people: `serve --http-workers` starts it
    }
    if name in known:
        return known[name](arguments)
    if name in {"-h", "--help"}:
        sys.stdout.write(USAGE)
        return 0
    if name == "--version":
        sys.stdout.write(f"{__version__}\n")
        return 0
    sys.stderr.write(f"headrace: there is no command {name!r}\n\n{USAGE}" if name else USAGE)
    return 2


def _share_one_core() -> None:
    """Tokenise lists one text after the other where there is one core: in parallel costs 30 % more of it."""
    if sys.platform == "linux" and len(os.sched_getaffinity(0)) == 1:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    sys.exit(main())
