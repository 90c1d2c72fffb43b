"""How far a start has come: a bar on a terminal, log lines elsewhere."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TaskID

if TYPE_CHECKING:
    from inference import Progress  # its home imports torch

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def shown() -> Iterator["Callable[[Progress], None]"]:
    """Give the function that takes each step; it may be called from any thread."""
    if not sys.stderr.isatty():
        yield _write_line
        return
    bars = Bars(console=Console(stderr=True), transient=True)
    tasks: dict[tuple[str, str], TaskID] = {}

    def draw(step: "Progress") -> None:
        key = (step.model, step.stage)
        if key not in tasks:
            tasks[key] = bars.add_task(f"{step.model}: {step.stage}", total=step.total)
        bars.start()
        bars.update(tasks[key], completed=step.done)
        if bars.finished:  # a bar on the screen is a thread that redraws it: not while serving
            bars.stop()

    try:
        yield draw
    finally:
        bars.stop()


def _write_line(step: "Progress") -> None:
    _log.info("%s: %s %d/%d", step.model, step.stage, step.done, step.total)
