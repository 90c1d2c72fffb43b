"""The GPUs as Prometheus metrics: what they did not tell is absent, and all of it is where there is none."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.gpus import Sight
from gateway.nvml import THROTTLES, Gpu

_Value = Callable[[Gpu], float | None]
_Sample = tuple[list[str], float | None]

_PLAIN: Final[tuple[tuple[str, str, _Value], ...]] = (
    ("busy_ratio", "Share of the time in which any kernel ran, however small: 1 is not full", lambda gpu: gpu.busy),
    ("memory_used_bytes", "Memory in use, by whomever", lambda gpu: gpu.memory_used_bytes),
    ("memory_total_bytes", "Memory there is", lambda gpu: gpu.memory_total_bytes),
    ("power_watts", "Power drawn", lambda gpu: gpu.power_w),
    ("power_limit_watts", "Power that it may draw", lambda gpu: gpu.power_limit_w),
    ("temperature_celsius", "Temperature of the chip", lambda gpu: gpu.temperature_c),
    ("last_xid", "Code of the last error that the driver reported; 0: none", lambda gpu: gpu.last_xid),
    ("lost", "1: it answers no more, and only a reset would help", lambda gpu: float(gpu.lost)),
)
_COUNTED: Final[tuple[tuple[str, str, _Value], ...]] = (
    ("energy_joules", "Energy drawn since the driver was loaded", lambda gpu: gpu.energy_j),
    ("xids", "Errors that the driver reported since this process looks", lambda gpu: float(gpu.xids)),
)


class GpuMetrics(Collector):
    """Tells every scrape what was seen last."""

    def __init__(self, seen: Callable[[], Sight | None]) -> None:
        """Take where to ask; None from there means that there is no GPU."""
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of all GPUs; of a driver that hangs, only that it does."""
        sight = self._seen()
        if sight is None:
            return
        yield GaugeMetricFamily("headrace_nvml_up", "1: the driver answers for every GPU", value=float(sight.well))
        if not sight.gpus:
            return
        info = [([str(gpu.index), gpu.uuid, gpu.name], 1.0) for gpu in sight.gpus]
        yield _filled(GaugeMetricFamily("headrace_gpu_info", "Which it is", labels=["gpu", "uuid", "name"]), info)
        for name, text, value in _PLAIN:
            yield _filled(
                GaugeMetricFamily(f"headrace_gpu_{name}", text, labels=["gpu"]),
                (([str(gpu.index)], value(gpu)) for gpu in sight.gpus),
            )
        for name, text, value in _COUNTED:
            yield _filled(
                CounterMetricFamily(f"headrace_gpu_{name}", text, labels=["gpu"]),
                (([str(gpu.index)], value(gpu)) for gpu in sight.gpus),
            )
        yield _filled(
            GaugeMetricFamily("headrace_gpu_clock_hertz", "How fast it runs", labels=["gpu", "clock"]),
            (sample for gpu in sight.gpus for sample in _clocks(gpu)),
        )
        yield _filled(
            GaugeMetricFamily("headrace_gpu_throttled", "1: held back for this reason", labels=["gpu", "reason"]),
            (sample for gpu in sight.gpus for sample in _throttles(gpu)),
        )
        yield _filled(
            CounterMetricFamily(
                "headrace_gpu_ecc_errors", "Memory errors since the driver was loaded", labels=["gpu", "kind"]
            ),
            (sample for gpu in sight.gpus for sample in _ecc_errors(gpu)),
        )


def _clocks(gpu: Gpu) -> list[_Sample]:
    return [([str(gpu.index), "sm"], gpu.sm_hz), ([str(gpu.index), "memory"], gpu.memory_hz)]


def _throttles(gpu: Gpu) -> list[_Sample]:
    held_back = gpu.throttles
    if held_back is None:
        return []
    return [([str(gpu.index), reason], float(reason in held_back)) for reason in THROTTLES]


def _ecc_errors(gpu: Gpu) -> list[_Sample]:
    return [
        ([str(gpu.index), "corrected"], gpu.corrected_errors),
        ([str(gpu.index), "uncorrected"], gpu.uncorrected_errors),
    ]


def _filled(family: CounterMetricFamily | GaugeMetricFamily, samples: Iterable[_Sample]) -> Metric:
    """Add the samples that have a value."""
    for labels, value in samples:
        if value is not None:
            family.add_metric(labels, value)
    return family
