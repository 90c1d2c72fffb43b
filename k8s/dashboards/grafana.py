"""
What a screen is, and the JSON that Grafana reads.

In an expression `NS` stands for the choice of namespaces that every screen has at its top.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

_WIDE: Final = 24  # columns of Grafana's grid
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_SIZES: Final = {"timeseries": (8, 8), "heatmap": (8, 8), "stat": (6, 4)}  # width, height


@dataclass(frozen=True, slots=True)
class Line:
    """One query, and what its lines are called."""

    legend: str
    expr: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: what it shows, and what to think of it."""

    title: str
    text: str
    unit: str  # Grafana's: s, bytes, percentunit, reqps, ...
    lines: Sequence[Line]
    kind: Literal["timeseries", "heatmap", "stat"] = "timeseries"
    highest: float | None = None  # of the axis; None: as the data are


@dataclass(frozen=True, slots=True)
class Screen:
    """The panels that answer one question."""

    uid: str
    title: str
    question: str
    panels: Sequence[Panel]


def rendered(screen: Screen) -> str:
    """Return the dashboard as Grafana imports it."""
    dashboard = {
        "uid": screen.uid,
        "title": f"Headrace / {screen.title}",
        "description": screen.question,
        "tags": ["headrace"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {"type": "dashboards", "tags": ["headrace"], "title": "Headrace", "keepTime": True, "includeVars": True}
        ],
        "templating": {"list": [_datasources(), _namespaces()]},
        "panels": list(_panels(screen.panels)),
    }
    return json.dumps(dashboard, indent=2) + "\n"


def _datasources() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _namespaces() -> dict[str, Any]:
    """All of them, or some; all is also right where nothing has a namespace."""
    return {
        "name": "namespace",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": "label_values(headrace_build_info, namespace)", "refId": "namespaces"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    """Lay them out in lines from the left."""
    left, top = 0, 0
    for number, panel in enumerate(panels, start=1):
        width, height = _SIZES[panel.kind]
        yield _panel(panel, number) | {"gridPos": {"x": left, "y": top, "w": width, "h": height}}
        left += width
        if left == _WIDE:
            left, top = 0, top + height


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.kind == "timeseries":
        defaults["min"] = 0
    if panel.highest is not None:
        defaults["max"] = panel.highest
    shown: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [_target(panel, line, chr(ord("A") + place)) for place, line in enumerate(panel.lines)],
    }
    if panel.kind == "heatmap":
        shown["options"] = {"calculate": False, "yAxis": {"unit": panel.unit}}
        shown["fieldConfig"] = {"defaults": {}, "overrides": []}
    return shown


def _target(panel: Panel, line: Line, name: str) -> dict[str, Any]:
    target = {
        "refId": name,
        "expr": line.expr.replace("NS", 'namespace=~"$namespace"'),
        "legendFormat": line.legend,
    }
    return target | ({"format": "heatmap"} if panel.kind == "heatmap" else {})
