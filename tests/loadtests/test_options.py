from argparse import ArgumentParser
from pathlib import Path

import pytest

from loadtests.options import BadOption, Told, add_options, read_options


def read(*arguments: str) -> Told:
    parser = ArgumentParser()
    add_options(parser)
    return read_options(parser.parse_args(arguments))


def test_what_is_not_told_has_a_default() -> None:
    told = read("--duration", "300")

    assert (told.plan.rate, told.plan.duration_s, told.plan.warm_up_s) == (10.0, 300.0, 30.0)
    assert told.slo is None
    assert [caller.name for caller in told.callers] == ["anybody"]


def test_files_are_read_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "slo").write_text("[default]\np99_ms = 250\n")
    (tmp_path / "trace").write_text("0\n0.5\n")
    (tmp_path / "callers").write_text('[[caller]]\nname = "a"\n')

    told = read(*(word for name in ("slo", "trace", "callers") for word in (f"--{name}", str(tmp_path / name))))

    assert told.slo is not None
    assert told.plan.trace == (0.0, 0.5)
    assert told.callers[0].name == "a"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "--rate"),
        (["--duration", "-1"], "--duration"),
        (["--timeout", "0"], "--timeout"),
        (["--most-in-flight", "0"], "--most-in-flight"),
        (["--longest", "0"], "--longest"),
        (["--slo", "/nowhere"], "--slo: /nowhere cannot be read"),
        (["--slo", "/dev/null"], "promises nothing"),
        (["--fields", "[1]"], "not a JSON object"),
        (["--fields", "{"], "--fields"),
        (["--closed", "--shape", "spike"], "--closed"),
    ],
)
def test_what_no_run_can_be_made_of_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        read(*arguments)


def test_a_closed_loop_may_go_as_fast_as_it_is_answered() -> None:
    assert read("--closed", "--rate", "0").closed
