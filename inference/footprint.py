"""What of the memory is taken, measured: by this process, and by torch while something runs."""

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Return the most that torch holds at once on this device (`cpu`, `cuda:0`) of what it takes while this runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    place = torch.device(device).type.upper()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    steps: list[int] = [event.nbytes() for event in events if event.device_type().name == place]
    return max(accumulate(steps, initial=0))


def resident_bytes() -> int | None:
    """Return what this process holds of the machine's memory, where the system tells it."""
    try:
        told = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    kib = next(line.split()[1] for line in told.splitlines() if line.startswith("VmRSS:"))
    return int(kib) * 1024
