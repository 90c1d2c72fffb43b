"""A guard of the product, and the test that must fail without it."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Guard:
    """What it does, where it stands, what stands there without it, and the test (a pytest id) that then fails."""

    name: str
    file: str
    guarded: str  # exactly as it stands in the file, once
    without: str
    test: str

    def removed_from(self, source: str) -> str:
        """The source without this guard; it must be there exactly once."""
        found = source.count(self.guarded)
        assert found == 1, f"{self.file} has {found} times: {self.guarded!r}"
        return source.replace(self.guarded, self.without)
