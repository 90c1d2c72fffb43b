import contextlib
import io
import logging
import os
import threading

import pytest

from gateway import progress
from inference import Progress


def test_elsewhere_than_on_a_terminal_each_step_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    with progress.shown() as step:
        step(Progress("tiny", "load", 0, 1))
        step(Progress("tiny", "warm up", 3, 11))

    assert caplog.messages == ["tiny: load 0/1", "tiny: warm up 3/11"]


@pytest.mark.parametrize("fails", [False, True])
def test_on_a_terminal_there_is_a_bar_and_afterwards_the_cursor_is_back(fails: bool) -> None:
    with terminal() as screen, contextlib.suppress(ZeroDivisionError), progress.shown() as step:
        step(Progress("tiny", "load", 0, 1))
        if fails:
            raise ZeroDivisionError
        step(Progress("tiny", "load", 1, 1))

    assert "tiny: load" in screen.getvalue()
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")


def test_when_all_is_loaded_nothing_redraws_the_terminal_any_more() -> None:
    before = set(threading.enumerate())

    with terminal(), progress.shown() as step:
        for stage in ("load", "warm up"):
            step(Progress("tiny", stage, 0, 2))
            redrawing = set(threading.enumerate()) - before
            step(Progress("tiny", stage, 2, 2))
            for thread in redrawing:
                thread.join(10)

            assert redrawing
            assert not [thread for thread in redrawing if thread.is_alive()]


@contextlib.contextmanager
def terminal():
    """Stand a pseudo-terminal in the place of stderr, and give what was written to it."""
    ours, theirs = os.openpty()
    screen = io.StringIO()
    try:
        with os.fdopen(theirs, "w") as stderr, contextlib.redirect_stderr(stderr):
            yield screen
            stderr.flush()
            os.set_blocking(ours, False)
            with contextlib.suppress(BlockingIOError):
                while True:  # a terminal gives at most a page at a time
                    screen.write(os.read(ours, 1 << 16).decode())
    finally:
        os.close(ours)
