"""`headrace` and `python -m gateway`: hand over to a command."""

import sys

from gateway import __version__, commands

COMMANDS = {"serve": commands.serve, "profile": commands.profile, "settings": commands.print_settings}
USAGE = f"""headrace {__version__}: a high-throughput inference gateway

usage: headrace COMMAND [--key VALUE ...]

  serve      serve models over HTTP; `headrace serve --help` lists every key
  profile    measure what the models can do on this device; takes the keys of serve
  settings   print the reference of all keys
"""


def main() -> int:
    """Run the command that the command line names."""
    name, *arguments = sys.argv[1:] or [""]
    if name in COMMANDS:
        return COMMANDS[name](arguments)
    if name in {"-h", "--help"}:
        sys.stdout.write(USAGE)
        return 0
    if name == "--version":
        sys.stdout.write(f"{__version__}\n")
        return 0
    sys.stderr.write(f"headrace: there is no command {name!r}\n\n{USAGE}" if name else USAGE)
    return 2


if __name__ == "__main__":
    sys.exit(main())
