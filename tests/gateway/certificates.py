"""Authorities and certificates, made by openssl."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import skip


@dataclass(frozen=True)
class Signed:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Who signs certificates."""

    folder: Path
    name: str = "authority"

    @property
    def cert(self) -> Path:
        return self.folder / f"{self.name}.crt"

    @property
    def key(self) -> Path:
        return self.folder / f"{self.name}.key"

    def begin(self) -> "Authority":
        """Make its own certificate."""
        openssl("req", "-x509", *_NEW, *self._out(self.name), "-subj", f"/CN={self.name}", "-days", "1")
        return self

    def sign(self, name: str) -> Signed:
        """Make a certificate of this name for 127.0.0.1."""
        openssl(
            *("req", "-x509", *_NEW, *self._out(name), "-subj", f"/CN={name}", "-days", "1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-CA", str(self.cert), "-CAkey", str(self.key)),
        )
        return Signed(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def _out(self, name: str) -> tuple[str, ...]:
        return ("-keyout", str(self.folder / f"{name}.key"), "-out", str(self.folder / f"{name}.crt"))


_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")


def openssl(*words: str) -> None:
    """Run it; skip where it is missing."""
    found = shutil.which("openssl")
    if found is None:
        skip("openssl is not installed")
    done = subprocess.run([str(found), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
