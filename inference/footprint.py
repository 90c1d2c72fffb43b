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


def free_bytes(device: str) -> int | None:
    """Return what may still be taken on a device (`cpu`: of the machine's or the container's memory), if it tells."""
    place = torch.device(device)
    if place.type == "cuda":
        unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        return int(torch.cuda.mem_get_info(place)[0]) + unused
    told = [free for free in (_free_of_machine(), _free_of_container()) if free is not None]
    return min(told, default=None)


def resident_bytes() -> int | None:
    """Return what this process holds of the machine's memory, where the system tells it."""
    return _kib("/proc/self/status", "VmRSS:")


def _free_of_machine() -> int | None:
    return _kib("/proc/meminfo", "MemAvailable:")


def _free_of_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the limit of the control group leaves; cached files count as free, for the kernel drops them."""
    try:
        most, taken = ((group / name).read_text("ascii").strip() for name in ("memory.max", "memory.current"))
        lines = (group / "memory.stat").read_text("ascii").splitlines()
    except OSError:
        return None
    cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return None if most == "max" else int(most) - int(taken) + cached


def _kib(file: str, name: str) -> int | None:
    """Read a line such as `MemAvailable:  1024 kB`, in bytes."""
    try:
        told = Path(file).read_text(encoding="ascii")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in told.splitlines() if line.startswith(name)), None)
