"""
What the driver says of the GPUs that this process sees (in a pod: its own), through NVML.

Every question may fail by itself, and then its answer is None. Any of them may hang, too: ask on a thread that
nobody waits for. Knows no metrics.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pynvml

_log = logging.getLogger(__name__)

Told = TypeVar("Told")

THROTTLES: Final = {
    "power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
    "sync_boost": pynvml.nvmlClocksEventReasonSyncBoost,
    "thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hardware_thermal": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "power_brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
}
"""Why clocks are lower than they could be, without what is no trouble: an idle GPU, clocks that somebody set."""

_NONE_HERE: Final = frozenset({pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
_GONE: Final = frozenset(
    {pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED}
)
_MOST_EVENTS: Final = 100  # read at a time: a GPU that reports without end must not hold the thread


class NoGpus(Exception):
    """There is nothing to ask about: no library, no driver or no GPU."""


class DriverFailed(Exception):
    """There is a driver, and it does not work."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU at one moment; None: it does not tell."""

    index: int
    uuid: str
    name: str
    lost: bool  # it answers no more, and only a reset would help
    busy: float | None  # share of the driver's last sampling period in which any kernel ran, however small
    memory_used_bytes: float | None
    memory_total_bytes: float | None
    power_w: float | None
    power_limit_w: float | None
    energy_j: float | None  # since the driver was loaded
    sm_hz: float | None
    memory_hz: float | None
    temperature_c: float | None
    throttles: frozenset[str] | None  # of THROTTLES
    corrected_errors: float | None  # of memory, since the driver was loaded
    uncorrected_errors: float | None
    xids: int  # errors that the driver reported since this process looks
    last_xid: int  # the code of the last one; 0: none yet


class Driver:
    """NVML, opened."""

    def __init__(self) -> None:
        """Find the GPUs; raises NoGpus and DriverFailed."""
        try:
            pynvml.nvmlInit()
            found = [_find(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as err:
            raise (NoGpus if err.value in _NONE_HERE else DriverFailed)(str(err)) from None
        self._devices = [device for device in found if device is not None]
        if not self._devices:
            raise NoGpus("the driver shows no GPU")

    def read(self) -> tuple[Gpu, ...]:
        """Ask everything about every GPU."""
        return tuple(device.read() for device in self._devices)


class _Device:
    """A GPU that was found, and what is counted of it."""

    def __init__(self, index: int, handle: Any) -> None:
        self._index = index
        self._handle = handle
        self._lost = False
        self._uuid = self._ask(pynvml.nvmlDeviceGetUUID) or ""
        self._name = self._ask(pynvml.nvmlDeviceGetName) or ""
        self._events = self._ask(_events)
        self._xids = 0
        self._last_xid = 0

    def read(self) -> Gpu:
        """Ask everything."""
        self._read_events()
        memory = self._ask(pynvml.nvmlDeviceGetMemoryInfo)
        busy = self._ask(pynvml.nvmlDeviceGetUtilizationRates)
        throttles = self._ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons)  # its name in all drivers
        return Gpu(
            index=self._index,
            uuid=self._uuid,
            name=self._name,
            busy=_scaled(None if busy is None else busy.gpu, 0.01),
            memory_used_bytes=None if memory is None else memory.used,
            memory_total_bytes=None if memory is None else memory.total,
            power_w=_scaled(self._ask(pynvml.nvmlDeviceGetPowerUsage), 1e-3),
            power_limit_w=_scaled(self._ask(pynvml.nvmlDeviceGetEnforcedPowerLimit), 1e-3),
            energy_j=_scaled(self._ask(pynvml.nvmlDeviceGetTotalEnergyConsumption), 1e-3),
            sm_hz=_scaled(self._ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_SM), 1e6),
            memory_hz=_scaled(self._ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_MEM), 1e6),
            temperature_c=self._ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
            throttles=None if throttles is None else frozenset(n for n, bit in THROTTLES.items() if throttles & bit),
            corrected_errors=self._ecc_errors(pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            uncorrected_errors=self._ecc_errors(pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            xids=self._xids,
            last_xid=self._last_xid,
            lost=self._lost,  # the last: any question may find it out
        )

    def _ask(self, question: Callable[..., Told], *about: Any) -> Told | None:
        """Return the answer, or None; a GPU that is lost is asked nothing more."""
        if self._lost:
            return None
        try:
            return question(self._handle, *about)
        except pynvml.NVMLError as err:
            self._lost = err.value in _GONE
            return None

    def _ecc_errors(self, kind: int) -> float | None:
        return self._ask(pynvml.nvmlDeviceGetTotalEccErrors, kind, pynvml.NVML_VOLATILE_ECC)

    def _read_events(self) -> None:
        """Count the errors that the driver has kept for us since the last look; it waits for none."""
        for _ in range(_MOST_EVENTS):
            event = None if self._events is None else self._ask(lambda _: pynvml.nvmlEventSetWait_v2(self._events, 0))
            if event is None:  # NVML's way to say that there are no more is a timeout
                return
            self._xids += 1
            self._last_xid = event.eventData
            _log.error("GPU %d (%s) reports XID %d", self._index, self._uuid, self._last_xid)


def _find(index: int) -> _Device | None:
    """Return a GPU; None for one that is not ours. Raises NVMLError."""
    try:
        return _Device(index, pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError_NoPermission:
        return None


def _events(handle: Any) -> Any:
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    return events


def _scaled(told: float | None, unit: float) -> float | None:
    return None if told is None else told * unit
