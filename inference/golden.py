"""
Golden answers: what a model is known to say to some inputs, in a file, and how far a loaded model is from it.

An input is one text or a pair, taken as it is, without a prompt; its answer is the row of the model's main output.
No torch, no tokenizer: whoever holds the model runs the inputs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from inference.errors import CannotServe
from inference.request import Row
from inference.task import Task

Input = str | tuple[str, str]
Measure = Literal["cosine", "largest difference"]

_SMALLEST: Final = float(np.finfo(np.float32).tiny)  # instead of 0, under a fraction


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far an answer may be: the cosine of vectors, at least; else the largest difference, as a share, at most."""

    cosine: Annotated[float, msgspec.Meta(ge=-1, le=1)] = 0.9999
    largest_difference: Annotated[float, msgspec.Meta(ge=0)] = 1e-3


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input and its answer: [width], or [rows, width]."""

    input: Input
    answer: Annotated[list[float | list[float]], msgspec.Meta(min_length=1)]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of golden answers; `model` and `revision` say where they came from, and are not compared."""

    format: Literal[1]
    model: str
    revision: str | None = None
    task: Task
    tolerance: Tolerance = Tolerance()
    cases: Annotated[list[Case], msgspec.Meta(min_length=1)]

    @property
    def inputs(self) -> list[Input]:
        """What is to be asked."""
        return [case.input for case in self.cases]


@dataclass(frozen=True, slots=True)
class Drift:
    """How far one answer is from the golden one. Cases count from 1, as people do."""

    case: int
    measure: Measure
    value: float
    bound: float

    @property
    def excess(self) -> float:
        """How far beyond the tolerance it is; above 0 it has drifted. What is no number is infinitely far."""
        beyond = self.bound - self.value if self.measure == "cosine" else self.value - self.bound
        return float("inf") if np.isnan(beyond) else beyond

    @property
    def drifted(self) -> bool:
        """Whether it is beyond the tolerance."""
        return self.excess > 0

    def __str__(self) -> str:
        """What was measured, and what is wanted."""
        wanted = "at least" if self.measure == "cosine" else "at most"
        return f"case {self.case}: {self.measure} {self.value:.6g}, {wanted} {self.bound:g}"


def read_golden(path: Path) -> Golden:
    """Read a file of golden answers; raises CannotServe."""
    try:
        golden = msgspec.json.decode(path.read_bytes(), type=Golden)
    except OSError as err:
        raise CannotServe(f"golden file {path} cannot be read: {err.strerror}") from err
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise CannotServe(f"golden file {path}: {err}") from err
    for number, case in enumerate(golden.cases, start=1):
        try:
            _numbers(case)
        except ValueError:
            raise CannotServe(f"golden file {path}: the rows of case {number} are not equally long") from None
    return golden


def write_golden(golden: Golden, path: Path) -> None:
    """Write a file that `read_golden` takes; raises CannotServe."""
    try:
        path.write_bytes(msgspec.json.encode(golden) + b"\n")
    except OSError as err:
        raise CannotServe(f"golden file {path} cannot be written: {err.strerror}") from err


def read_inputs(lines: Iterable[str]) -> list[Input]:
    """Read a JSON string or a list of two, one a line; raises CannotServe."""
    inputs: list[Input] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            inputs.append(msgspec.json.decode(line, type=Input))
        except (msgspec.DecodeError, UnicodeError) as err:
            raise CannotServe(f"line {number} is neither a JSON string nor a list of two: {err}") from err
    if not inputs:
        raise CannotServe("there are no inputs: write one JSON string, or a list of two, a line")
    return inputs


def record(model: str, revision: str | None, task: Task, inputs: Sequence[Input], rows: Sequence[Row]) -> Golden:
    """Make golden answers of what a model says now; raises CannotServe where that is not finite."""
    for number, row in enumerate(rows, start=1):
        if not np.isfinite(row).all():
            raise CannotServe(f"model {model}: its answer to case {number} is not finite")
    cases = [Case(text, _shortest(row)) for text, row in zip(inputs, rows, strict=True)]
    return Golden(format=1, model=model, revision=revision, task=task, cases=cases)


def compare(golden: Golden, model: str, task: Task, rows: Sequence[Row]) -> list[Drift]:
    """Return each case's drift; raises CannotServe where the file is about answers of another kind."""
    if golden.task != task:
        raise CannotServe(f"model {model}: its golden answers are for the task {golden.task}, and it is to {task}")
    drifts = []
    for number, (case, row) in enumerate(zip(golden.cases, rows, strict=True), start=1):
        expected = _numbers(case)
        if expected.shape != row.shape:
            shapes = f"{list(row.shape)}, not {list(expected.shape)}"
            raise CannotServe(f"model {model}: its answer to golden case {number} has the shape {shapes}")
        drifts.append(_drift(golden, number, expected, row.astype(np.float64)))
    return drifts


def check(golden: Golden, model: str, task: Task, rows: Sequence[Row]) -> None:
    """Raise CannotServe with the worst case if an answer has drifted."""
    worst = max(compare(golden, model, task, rows), key=lambda drift: drift.excess)
    if worst.drifted:
        raise CannotServe(f"model {model}: its answers are not the golden ones; the worst is {worst}")


def _numbers(case: Case) -> npt.NDArray[np.float64]:
    return np.asarray(case.answer, np.float64)


def _drift(golden: Golden, number: int, expected: npt.NDArray[np.float64], row: npt.NDArray[np.float64]) -> Drift:
    tolerance = golden.tolerance
    if golden.task == "embed":
        lengths = max(float(np.linalg.norm(expected) * np.linalg.norm(row)), _SMALLEST)
        return Drift(number, "cosine", float(expected @ row) / lengths, tolerance.cosine)
    share = float(np.abs(row - expected).max()) / max(float(np.abs(expected).max()), _SMALLEST)
    return Drift(number, "largest difference", share, tolerance.largest_difference)


def _shortest(row: Any) -> Any:
    """Return float32 numbers as lists of the shortest decimals that are read back as the same."""
    return [_shortest(each) for each in row] if row.ndim else float(str(row))
