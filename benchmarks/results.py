"""What a benchmark found: one table to read, one JSON file with every round to keep."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import machine

_FOLDER: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity, a value a round."""

    name: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """What is quoted."""
        return median(self.rounds)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be: at least or at most so much."""

    name: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


@dataclass(frozen=True, slots=True)
class Findings:
    """All that one benchmark found. `kind` is the sort of device: `cpu`, or the name of a GPU."""

    name: str
    kind: str
    figures: Sequence[Figure]
    goals: Sequence[Goal]
    conditions: dict[str, Any]


def publish(findings: Findings, commit: str) -> Path:
    """Print the tables and write the file; `commit` is what was there when the run began."""
    sys.stdout.write(f"{_table(_figure_rows(findings.figures))}\n\n{_table(_goal_rows(findings.goals))}\n")
    _FOLDER.mkdir(exist_ok=True)
    path = _FOLDER / f"{findings.name}-{findings.kind}.json"
    path.write_text(json.dumps(_document(findings, commit), indent=2) + "\n")
    sys.stdout.write(f"\n{path.relative_to(_FOLDER.parent.parent)}\n")
    return path


def _document(findings: Findings, commit: str) -> dict[str, Any]:
    return {
        "benchmark": findings.name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "commit": commit,
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "conditions": findings.conditions,
        "goals": [
            {"name": goal.name, "value": _short(goal.value), "goal": _wanted(goal), "met": goal.met}
            for goal in findings.goals
        ],
        "figures": [
            {
                "name": figure.name,
                "unit": figure.unit,
                "median": _short(figure.median),
                "rounds": [_short(value) for value in figure.rounds],
            }
            for figure in findings.figures
        ],
    }


def _figure_rows(figures: Sequence[Figure]) -> list[list[str]]:
    rows = [["figure", "unit", "median", "lowest", "highest"]]
    for figure in figures:
        values = (figure.median, min(figure.rounds), max(figure.rounds))
        rows.append([figure.name, figure.unit, *(f"{_short(value):g}" for value in values)])
    return rows


def _goal_rows(goals: Sequence[Goal]) -> list[list[str]]:
    head = ["goal", "wanted", "found", "met"]
    words = {True: "met", False: "MISSED"}
    return [head, *([goal.name, _wanted(goal), f"{_short(goal.value):g}", words[goal.met]] for goal in goals)]


def _wanted(goal: Goal) -> str:
    return f"{'<=' if goal.at_most else '>='} {goal.bound:g}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown, aligned: the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |".rstrip() for row in rows
    ]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _short(value: float) -> float:
    """Four figures, or seven behind the point where a share is all but one."""
    return round(value, 7) if 0.999 < value < 1 else float(f"{value:.4g}")
