"""glibc's heap: one for all threads, and it keeps what it has."""

import contextlib
import ctypes
from typing import Final

# From malloc.h: parameter and value.
_ONE_HEAP: Final = (-8, 1)  # M_ARENA_MAX
_KEEP: Final = (-1, 512 * 1024 * 1024)  # M_TRIM_THRESHOLD: so much may lie idle at its end
_NO_MAPPINGS: Final = (-3, 32 * 1024 * 1024)  # M_MMAP_THRESHOLD: the most that glibc takes


def share_one_heap() -> None:
    """
    Let all threads allocate from the main heap; call it before a second thread exists (numpy and torch start some).

    Else memory is given back after every large temporary and faulted in again: 100 to 400 page faults a text on a
    CPU, some 5 % of its time.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in (_ONE_HEAP, _KEEP, _NO_MAPPINGS):
            mallopt(parameter, value)


def give_back() -> None:
    """Return what lies idle in the heap to the system: after a model has gone, that is much."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
