"""
Looks at the GPUs from time to time, on a thread of its own: who wants to know what it saw never waits.

A driver may fail, or hang for good. What it said last is then not told for long.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.nvml import Driver, DriverFailed, Gpu, NoGpus

_log = logging.getLogger(__name__)

_EVERY_S: Final = 5.0  # as often as the fastest scrapes
_STALE_AFTER: Final = 3  # looks that are missing


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of the GPUs; `well`: a moment ago, and none of them is lost."""

    gpus: tuple[Gpu, ...]
    well: bool


class Gpus:
    """The GPUs of this process, as they were a moment ago."""

    def __init__(
        self,
        *,
        driver: Callable[[], Driver] = Driver,
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take how to open the driver, and how often to look; nothing is touched before `start`."""
        self._driver = driver
        self._every_s = every_s
        self._clock = clock
        self._moment = clock()  # of the last look
        self._gpus: tuple[Gpu, ...] = ()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="gpus", daemon=True)
        self._none = True  # for all that is known

    def start(self) -> None:
        """Begin to look."""
        self._moment = self._clock()
        self._none = False
        self._thread.start()

    def stop(self) -> None:
        """Look no more. It is not waited for: a driver that hangs never lets go of its thread."""
        self._stop.set()

    def seen(self) -> Sight | None:
        """Return what was seen; None where there is no GPU. Never waits."""
        if self._none:
            return None
        if self._clock() - self._moment > _STALE_AFTER * self._every_s:
            return Sight((), well=False)
        return Sight(self._gpus, well=not any(gpu.lost for gpu in self._gpus))

    def _look(self) -> None:
        failure = ""
        while not self._stop.is_set():
            try:
                self._watch(self._driver())
            except NoGpus as err:
                _log.info("no metrics of GPUs: %s", err)
                self._none = True
                return
            except DriverFailed as err:
                if str(err) != failure:  # once, not at every look
                    _log.warning("no metrics of GPUs for now: %s", err)
                failure = str(err)
            self._stop.wait(self._every_s)

    def _watch(self, driver: Driver) -> None:
        while not self._stop.is_set():
            self._gpus = driver.read()
            self._moment = self._clock()
            self._stop.wait(self._every_s)
