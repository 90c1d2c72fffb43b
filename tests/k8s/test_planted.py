"""Every check bites: the planted mistakes are found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.findings import facts
from tests.k8s.manifests import build
from tests.k8s.planted import BEYOND_SCHEMAS, BY_MODELS, BY_SCHEMAS, Plant
from tests.k8s.schemas import findings, is_own


def some(plants: Sequence[Plant]) -> list[Any]:
    """Every fifth; the others take minutes."""
    return [
        pytest.param(plant, marks=() if place % 5 == 0 else pytest.mark.slow, id=str(plant))
        for place, plant in enumerate(plants)
    ]


@pytest.mark.parametrize("plant", some(BEYOND_SCHEMAS))
def test_a_mistake_that_no_schema_sees_is_found(tree: Path, plant: Plant) -> None:
    put(tree, plant)

    found = facts(build(tree, plant.variant))

    assert any(plant.said in problem for problem in found), found


@pytest.mark.parametrize("plant", some(BY_SCHEMAS))
def test_a_mistake_against_a_schema_is_found(tree: Path, plant: Plant) -> None:
    put(tree, plant)

    own = [each for each in build(tree, plant.variant) if is_own(each) or "envoyproxy" in each["apiVersion"]]

    assert any(plant.said in problem for problem in findings(own)), findings(own)


@pytest.mark.slow
@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("plant", BY_MODELS, ids=str)
def test_a_mistake_against_an_operators_model_is_found(tree: Path, plant: Plant) -> None:
    put(tree, plant)

    custom = [each for each in build(tree, plant.variant) if not is_own(each)]

    assert any(plant.said in problem for problem in findings(custom)), findings(custom)


def put(tree: Path, plant: Plant) -> None:
    """Replace the first that stands there."""
    file = tree / plant.file
    text = file.read_text()
    assert plant.right in text, f"{plant.right!r} is not in {plant.file} any more"
    file.write_text(text.replace(plant.right, plant.wrong, 1))
