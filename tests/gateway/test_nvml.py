"""NVML as a driver may answer: everything, in part, wrongly or not at all; the library is made from tests/nvml.c."""

from dataclasses import replace

import pytest

from gateway.nvml import Driver, DriverFailed, Gpu, NoGpus
from tests.nvml import Orders

GPU = Gpu(
    index=0,
    uuid="GPU-stub-0",
    name="Stub",
    lost=False,
    busy=0.75,
    memory_used_bytes=3 << 30,
    memory_total_bytes=16 << 30,
    power_w=250.0,
    power_limit_w=700.0,
    energy_j=None,  # it grows
    sm_hz=1980e6,
    memory_hz=2619e6,
    temperature_c=61,
    throttles=frozenset({"power_cap", "hardware_thermal"}),
    corrected_errors=5,
    uncorrected_errors=2,
    xids=0,
    last_xid=0,
)
FIELDS = {
    "nvmlDeviceGetUtilizationRates": ("busy",),
    "nvmlDeviceGetMemoryInfo": ("memory_used_bytes", "memory_total_bytes"),
    "nvmlDeviceGetPowerUsage": ("power_w",),
    "nvmlDeviceGetEnforcedPowerLimit": ("power_limit_w",),
    "nvmlDeviceGetTotalEnergyConsumption": ("energy_j",),
    "nvmlDeviceGetClockInfo": ("sm_hz", "memory_hz"),
    "nvmlDeviceGetTemperature": ("temperature_c",),
    "nvmlDeviceGetCurrentClocksThrottleReasons": ("throttles",),
    "nvmlDeviceGetTotalEccErrors": ("corrected_errors", "uncorrected_errors"),
    "nvmlEventSetCreate": (),
    "nvmlDeviceRegisterEvents": (),
    "nvmlEventSetWait_v2": (),
}
NOT_SUPPORTED, NO_PERMISSION, NOT_LOADED, MISSING, LOST, UNKNOWN = 3, 4, 9, 13, 15, 999


def read() -> tuple[Gpu, Gpu]:
    one, other = Driver().read()
    return one, other


def test_every_gpu_is_told_in_base_units(nvml: Orders) -> None:
    one, other = read()

    assert replace(one, energy_j=None) == GPU
    assert replace(other, energy_j=None) == replace(GPU, index=1, uuid="GPU-stub-1")


def test_energy_is_told_in_joules_and_grows(nvml: Orders) -> None:
    driver = Driver()
    [before, _], [after, _] = driver.read(), driver.read()

    assert before.energy_j is not None and after.energy_j is not None
    assert 0 <= after.energy_j - before.energy_j < 250.0 * 60  # it draws 250 W


@pytest.mark.parametrize("code", [NOT_SUPPORTED, MISSING, UNKNOWN])
@pytest.mark.parametrize("function", FIELDS)
def test_a_question_that_fails_costs_its_own_answer_alone(nvml: Orders, function: str, code: int) -> None:
    nvml.give(f"{function} {code}")

    one, _ = read()

    told = {"energy_j": one.energy_j} | dict.fromkeys(FIELDS[function])
    assert one == replace(GPU, **told)  # type: ignore[arg-type]
    assert (one.energy_j is None) == ("energy_j" in FIELDS[function])


@pytest.mark.parametrize("function", [*FIELDS, "nvmlDeviceGetUUID", "nvmlDeviceGetName"])
def test_a_lost_gpu_takes_no_other_with_it(nvml: Orders, function: str) -> None:
    nvml.give(f"{function}@1 {LOST}" if function != "nvmlEventSetCreate" else f"nvmlDeviceRegisterEvents@1 {LOST}")

    one, other = read()

    assert replace(one, energy_j=None) == GPU
    assert other.lost


def test_a_gpu_that_is_not_ours_is_left_out(nvml: Orders) -> None:
    nvml.give(f"nvmlDeviceGetHandleByIndex_v2@0 {NO_PERMISSION}")

    [only] = Driver().read()

    assert only.uuid == "GPU-stub-1"


@pytest.mark.parametrize(
    "order", [f"nvmlInitWithFlags {NOT_LOADED}", "nvmlInitWithFlags 12", "none 1"], ids=["driver", "library", "GPU"]
)
def test_a_machine_without_gpus_says_so(nvml: Orders, order: str) -> None:
    nvml.give(order)

    with pytest.raises(NoGpus):
        Driver()


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"])
def test_a_driver_that_does_not_work_is_no_machine_without_gpus(nvml: Orders, function: str) -> None:
    nvml.give(f"{function} {UNKNOWN}")

    with pytest.raises(DriverFailed, match="Unknown Error"):
        Driver()


def test_errors_that_the_driver_reports_are_counted_once_and_logged(
    nvml: Orders, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver()
    nvml.give("xid@0 48", "xid@0 63")

    first, second = driver.read(), driver.read()

    assert [(gpu.xids, gpu.last_xid) for gpu in first] == [(2, 63), (0, 0)]
    assert [(gpu.xids, gpu.last_xid) for gpu in second] == [(2, 63), (0, 0)]
    assert "GPU 0 (GPU-stub-0) reports XID 48" in caplog.messages


def test_a_gpu_that_reports_without_end_does_not_hold_the_thread(nvml: Orders) -> None:
    driver = Driver()
    nvml.give(*["xid@1 13"] * 250)

    counts = [driver.read()[1].xids for _ in range(4)]

    assert counts == [100, 200, 250, 250]
