"""The benchmarks can be listed: whatever one of them imports is there, and can be imported."""

import pytest

from benchmarks.__main__ import NAMES, main


def test_without_a_name_all_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks"])

    assert main() == 0

    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == list(NAMES)
