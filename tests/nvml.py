"""A libnvidia-ml that does as it is told, compiled from nvml.c: the driver of a machine with two GPUs."""

import shutil
import subprocess
from pathlib import Path

from tests.conftest import skip

SOURCE = Path(__file__).with_suffix(".c")
NAME = "libnvidia-ml.so.1"
ORDERS = "NVML_STUB"  # the variable that names the file of orders


def compiled(folder: Path) -> Path:
    """Build the library into a folder, which is then good as LD_LIBRARY_PATH."""
    compiler = shutil.which("cc")
    if compiler is None:
        skip("there is no C compiler: Debian's package gcc")
        raise AssertionError
    warnings = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    command = [compiler, "-shared", "-fPIC", *warnings, f"-Wl,-soname,{NAME}", "-o", folder / NAME, SOURCE]
    subprocess.run(command, check=True)
    return folder


class Orders:
    """What the library does, a line each: see nvml.c."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.give()

    def give(self, *lines: str) -> None:
        """Replace all orders, at once for whoever reads them."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.replace(self._path)
