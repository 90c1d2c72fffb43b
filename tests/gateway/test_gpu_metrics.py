"""The metrics page of a machine with GPUs, and of one without."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gateway.gpu_metrics import GpuMetrics
from gateway.gpus import Sight
from tests.gateway.test_nvml import GPU

TOLD = replace(GPU, energy_j=12.5, xids=1, last_xid=63)


def page(sight: Sight | None) -> list[str]:
    return [line for line in whole_page(sight) if not line.startswith("#")]


def whole_page(sight: Sight | None) -> list[str]:
    registry = CollectorRegistry()
    registry.register(GpuMetrics(lambda: sight))
    return generate_latest(registry).decode().splitlines()


def test_everything_that_a_gpu_tells_is_on_the_page() -> None:
    told = page(Sight((TOLD,), well=True))

    assert told == [
        "headrace_nvml_up 1.0",
        'headrace_gpu_info{gpu="0",name="Stub",uuid="GPU-stub-0"} 1.0',
        'headrace_gpu_busy_ratio{gpu="0"} 0.75',
        'headrace_gpu_memory_used_bytes{gpu="0"} 3.221225472e+09',
        'headrace_gpu_memory_total_bytes{gpu="0"} 1.7179869184e+10',
        'headrace_gpu_power_watts{gpu="0"} 250.0',
        'headrace_gpu_power_limit_watts{gpu="0"} 700.0',
        'headrace_gpu_temperature_celsius{gpu="0"} 61.0',
        'headrace_gpu_last_xid{gpu="0"} 63.0',
        'headrace_gpu_lost{gpu="0"} 0.0',
        'headrace_gpu_energy_joules_total{gpu="0"} 12.5',
        'headrace_gpu_xids_total{gpu="0"} 1.0',
        'headrace_gpu_clock_hertz{clock="sm",gpu="0"} 1.98e+09',
        'headrace_gpu_clock_hertz{clock="memory",gpu="0"} 2.619e+09',
        'headrace_gpu_throttled{gpu="0",reason="power_cap"} 1.0',
        'headrace_gpu_throttled{gpu="0",reason="slowdown"} 0.0',
        'headrace_gpu_throttled{gpu="0",reason="sync_boost"} 0.0',
        'headrace_gpu_throttled{gpu="0",reason="thermal"} 0.0',
        'headrace_gpu_throttled{gpu="0",reason="hardware_thermal"} 1.0',
        'headrace_gpu_throttled{gpu="0",reason="power_brake"} 0.0',
        'headrace_gpu_ecc_errors_total{gpu="0",kind="corrected"} 5.0',
        'headrace_gpu_ecc_errors_total{gpu="0",kind="uncorrected"} 2.0',
    ]


@pytest.mark.parametrize(
    ("field", "metric"),
    [
        ("busy", "busy_ratio"),
        ("memory_used_bytes", "memory_used_bytes"),
        ("memory_total_bytes", "memory_total_bytes"),
        ("power_w", "power_watts"),
        ("power_limit_w", "power_limit_watts"),
        ("energy_j", "energy_joules_total"),
        ("temperature_c", "temperature_celsius"),
        ("throttles", "throttled"),
        ("sm_hz", 'clock_hertz{clock="sm"'),
        ("memory_hz", 'clock_hertz{clock="memory"'),
        ("corrected_errors", 'ecc_errors_total{gpu="0",kind="corrected"'),
        ("uncorrected_errors", 'ecc_errors_total{gpu="0",kind="uncorrected"'),
    ],
)
def test_what_a_gpu_does_not_tell_is_absent_and_nothing_else(field: str, metric: str) -> None:
    whole = page(Sight((TOLD,), well=True))

    told = page(Sight((replace(TOLD, **{field: None}),), well=True))  # type: ignore[arg-type]

    assert told == [line for line in whole if not line.startswith(f"headrace_gpu_{metric}")]


def test_every_gpu_has_its_own_lines() -> None:
    told = page(Sight((TOLD, replace(TOLD, index=1, power_w=9.0, lost=True)), well=False))

    assert 'headrace_gpu_power_watts{gpu="0"} 250.0' in told
    assert 'headrace_gpu_power_watts{gpu="1"} 9.0' in told
    assert 'headrace_gpu_lost{gpu="1"} 1.0' in told
    assert "headrace_nvml_up 0.0" in told


def test_of_a_driver_that_hangs_only_that_is_told() -> None:
    told = whole_page(Sight((), well=False))

    assert told[-1] == "headrace_nvml_up 0.0"
    assert len(told) == 3  # with its help and its type


def test_without_a_gpu_there_is_nothing_on_the_page() -> None:
    assert whole_page(None) == []
