"""The thread that looks at the GPUs: nobody waits for it, whatever the driver does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gateway.gpus import Gpus, Sight
from gateway.nvml import Driver
from tests.fakes import FakeClock
from tests.gateway.test_nvml import FIELDS, LOST, NOT_LOADED, UNKNOWN
from tests.nvml import Orders

EVERY_S = 0.001
FUNCTIONS = [
    "nvmlInitWithFlags",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    *FIELDS,
]


@contextmanager
def looking(clock: Callable[[], float]) -> Iterator[Gpus]:
    gpus = Gpus(every_s=EVERY_S, clock=clock)
    gpus.start()
    try:
        yield gpus
    finally:
        gpus.stop()


def until(gpus: Gpus, condition: Callable[[Sight | None], bool]) -> Sight | None:
    """What is seen, once it is as wanted."""
    tick = threading.Event()
    for _ in range(20_000):
        sight = gpus.seen()
        if condition(sight):
            return sight
        tick.wait(EVERY_S)
    raise AssertionError(sight)


def fresh(sight: Sight | None) -> bool:
    return sight is not None and sight.well and len(sight.gpus) == 2


def test_it_sees_the_gpus(nvml: Orders) -> None:
    with looking(FakeClock()) as gpus:
        sight = until(gpus, fresh)

    assert sight is not None
    assert [gpu.uuid for gpu in sight.gpus] == ["GPU-stub-0", "GPU-stub-1"]


def test_it_goes_on_looking(nvml: Orders) -> None:
    with looking(FakeClock()) as gpus:
        until(gpus, fresh)
        nvml.give("xid@0 79")
        sight = until(gpus, lambda sight: sight is not None and any(gpu.xids for gpu in sight.gpus))

    assert sight is not None
    assert sight.gpus[0].last_xid == 79


def test_where_there_is_no_gpu_nothing_is_seen_and_the_thread_ends(
    nvml: Orders, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    nvml.give(f"nvmlInitWithFlags {NOT_LOADED}")

    with looking(FakeClock()) as gpus:
        sight = until(gpus, lambda sight: sight is None)

    assert sight is None
    assert caplog.messages == ["no metrics of GPUs: Driver Not Loaded"]


def test_nothing_is_seen_before_it_looks() -> None:
    assert Gpus().seen() is None


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_driver_that_hangs_is_told_within_three_looks_and_comes_back(nvml: Orders, function: str) -> None:
    clock = FakeClock()
    nvml.give(f"{function} hang")

    with looking(clock) as gpus:
        clock.now = 2.9 * EVERY_S
        waiting = gpus.seen()
        clock.now = 3.1 * EVERY_S
        stale = gpus.seen()
        nvml.give()
        back = until(gpus, fresh)

    assert waiting == Sight((), well=True)
    assert stale == Sight((), well=False)
    assert back is not None


def test_what_a_driver_said_before_it_hung_is_not_told_for_long(nvml: Orders) -> None:
    clock = FakeClock()

    with looking(clock) as gpus:
        until(gpus, fresh)
        nvml.give("nvmlDeviceGetPowerUsage hang")
        while gpus.seen() != Sight((), well=False):  # looks that were under way may still end
            clock.now += EVERY_S
        nvml.give()

    assert clock.now > 3 * EVERY_S


def test_a_lost_gpu_is_told_and_the_other_still_seen(nvml: Orders) -> None:
    with looking(FakeClock()) as gpus:
        until(gpus, fresh)
        nvml.give(f"nvmlDeviceGetPowerUsage@0 {LOST}")
        sight = until(gpus, lambda sight: sight is not None and not sight.well)

    assert sight is not None
    assert [gpu.lost for gpu in sight.gpus] == [True, False]
    assert sight.gpus[1].power_w == 250.0


def test_a_driver_that_fails_is_tried_again_and_complained_of_once(
    nvml: Orders, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []
    nvml.give(f"nvmlInitWithFlags {UNKNOWN}")

    def opened() -> Driver:
        tries.append(len(tries))
        if len(tries) == 3:
            nvml.give()
        return Driver()

    gpus = Gpus(driver=opened, every_s=EVERY_S, clock=FakeClock())
    gpus.start()
    until(gpus, fresh)
    gpus.stop()

    assert tries == [0, 1, 2]
    assert caplog.messages == ["no metrics of GPUs for now: Unknown Error"]
