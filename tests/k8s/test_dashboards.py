"""The dashboards that are carried are those that the code makes, and a person can read them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from k8s.dashboards.grafana import rendered
from k8s.dashboards.screens import SCREENS
from tests.k8s.manifests import ROOT

FOLDER = ROOT / "k8s/components/grafana-dashboards"


@dataclass(frozen=True)
class Place:
    """Where a panel is on Grafana's grid."""

    x: int
    y: int
    w: int
    h: int

    def cells(self) -> set[tuple[int, int]]:
        return {(self.x + right, self.y + down) for right in range(self.w) for down in range(self.h)}


def panels(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text())["panels"]


def test_the_json_is_what_the_code_makes() -> None:
    written = {file.name: file.read_text() for file in FOLDER.glob("*.json")}

    assert written == {f"{screen.uid}.json": rendered(screen) for screen in SCREENS}  # `python -m k8s.dashboards`


def test_the_component_carries_every_screen() -> None:
    [made] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["configMapGenerator"]

    assert made["files"] == [f"{screen.uid}.json" for screen in SCREENS]


def test_no_panel_lies_on_another_or_beside_the_screen() -> None:
    for file in FOLDER.glob("*.json"):
        cells: set[tuple[int, int]] = set()
        for panel in panels(file):
            taken = Place(**panel["gridPos"]).cells()
            assert not taken & cells, f"{file.name}: {panel['title']}"
            assert max(x for x, _ in taken) < 24, f"{file.name}: {panel['title']}"
            cells |= taken


def test_every_panel_says_what_to_think_of_it_and_every_query_is_of_the_chosen_namespaces() -> None:
    for file in FOLDER.glob("*.json"):
        for panel in panels(file):
            assert panel["description"].endswith("."), panel["title"]
            for target in panel["targets"]:
                chosen = target["expr"].count('namespace=~"$namespace"')
                assert chosen == target["expr"].count("{"), target["expr"]
