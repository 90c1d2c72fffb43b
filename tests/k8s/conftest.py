"""Tools that these tests need beyond Python."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import skip
from tests.k8s.manifests import KUBECTL, Document, Variant, build, copy
from tests.k8s.schemas import MODELS


@pytest.fixture(scope="session")
def kubectl() -> None:
    """The command that renders."""
    if not KUBECTL.exists():
        skip("kubectl is not in the environment: `make install`")


@pytest.fixture
def tree(kubectl: None, tmp_path: Path) -> Path:
    """A copy of k8s/ that may be spoilt."""
    return copy(tmp_path)


@pytest.fixture(scope="session")
def rendered(kubectl: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], list[Document]]:
    """The documents of a variant as it is committed; each is rendered once."""
    return cache(lambda variant: build(copy(tmp_path_factory.mktemp("variant")), variant))


@pytest.fixture
def operators() -> None:
    """The operators' models, which are npm packages."""
    if not shutil.which("node") or not (MODELS / "node_modules").is_dir():
        skip("the operators' models are not installed: `make tests/k8s/models/node_modules`, which needs npm")
