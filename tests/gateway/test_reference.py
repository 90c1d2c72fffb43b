"""What is told of the settings is every key, once, and what is checked in."""

from pathlib import Path

import pytest

from gateway.options import KEYS, Key
from gateway.reference import document, reference, usage

ROOT = Path(__file__).parents[2]


def test_the_configuration_document_is_up_to_date() -> None:
    file = (ROOT / "CONFIGURATION.md").read_text(encoding="utf-8")

    assert file == f"{document()}\n", "regenerate it: headrace settings > CONFIGURATION.md"


def test_the_document_ends_with_the_reference() -> None:
    assert document().endswith(f"\n\n{reference()}")


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_each_key_is_one_line_of_the_usage_and_one_row_of_the_reference(key: Key) -> None:
    lines = [line for line in usage().splitlines() if line.startswith(f"  {key.flag} ")]
    rows = [row for row in reference().splitlines() if row.startswith(f"| `{key.flag}` | `{key.variable}` |")]

    assert len(lines) == len(rows) == 1
    assert key.help in lines[0]
    assert rows[0].count("|") == 6
