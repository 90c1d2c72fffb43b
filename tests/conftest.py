"""Fixtures used by more than one folder."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from benchmarks.checkpoints import checkpoint
from inference.checkpoint import Checkpoint, read_checkpoint
from inference.errors import CannotFetch
from inference.fetch import DEFAULT_MODEL
from tests.tiny import TINY, save_tiny

torch.set_num_threads(1)  # tests share the machine with servers that they start
settings.register_profile("headrace", deadline=None)  # speed is measured in benchmarks, not asserted here
settings.load_profile("headrace")


def skip(reason: str) -> None:
    """Skip for something this machine lacks; where HEADRACE_REQUIRE is set, that is a failure."""
    if os.environ.get("HEADRACE_REQUIRE") == "1":
        pytest.fail(f"HEADRACE_REQUIRE=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def real_checkpoint(name: str) -> Path:
    """Fetch a real model; skip where it cannot be had, but not where it is the wrong one."""
    try:
        return checkpoint(name)
    except CannotFetch as err:
        skip(str(err))
        raise


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """The real default model."""
    return real_checkpoint(DEFAULT_MODEL.name)


@pytest.fixture(scope="session")
def reranker_path() -> Path:
    """A real cross-encoder with one label."""
    return real_checkpoint("ms-marco-MiniLM-L-12-v2")


@pytest.fixture(scope="session")
def pii_tagger_path() -> Path:
    """A real token classifier with 35 labels."""
    return real_checkpoint("rampart-pii")


@pytest.fixture(scope="session")
def minilm(minilm_path: Path) -> Checkpoint:
    return read_checkpoint(DEFAULT_MODEL.name, minilm_path)


@pytest.fixture(scope="session")
def tiny_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models of five architectures, as checkpoints on disk."""
    root = tmp_path_factory.mktemp("tiny")
    return {name: save_tiny(name, root / name) for name in TINY}
