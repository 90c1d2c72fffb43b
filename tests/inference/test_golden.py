import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference.errors import CannotServe
from inference.golden import Case, Golden, Tolerance, check, compare, read_golden, read_inputs, record, write_golden
from inference.task import Task

FILE: dict[str, Any] = {
    "format": 1,
    "model": "m",
    "revision": None,
    "task": "embed",
    "tolerance": {"cosine": 0.99},
    "cases": [{"input": "a", "answer": [1.0, 0.0]}, {"input": ["a", "b"], "answer": [0.0, 2.0]}],
}


def row(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def golden(task: Task, *answers: list[Any], tolerance: Tolerance | None = None) -> Golden:
    cases = [Case("a", answer) for answer in answers]
    return Golden(format=1, model="m", task=task, cases=cases, tolerance=tolerance or Tolerance())


def written(folder: Path, content: object) -> Path:
    path = folder / "golden.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_file_says_what_is_asked_and_expected(tmp_path: Path) -> None:
    read = read_golden(written(tmp_path, FILE))

    assert read.inputs == ["a", ("a", "b")]
    assert read.tolerance == Tolerance(cosine=0.99, largest_difference=1e-3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 2}, "Invalid enum value 2.*format"),
        ({"task": "translate"}, "translate.*task"),
        ({"cases": []}, "length >= 1.*cases"),
        ({"cases": [{"input": "a"}]}, "missing required field `answer`"),
        ({"cases": [{"input": "a", "answer": []}]}, "answer"),
        ({"cases": [{"input": "a", "answer": ["1"]}]}, "answer"),
        ({"cases": [{"input": "a", "answer": [None]}]}, "answer"),
        ({"cases": [{"input": ["a"], "answer": [1]}]}, "input"),
        ({"cases": [{"input": "a", "answer": [[1, 2], [3]]}]}, "the rows of case 1 are not equally long"),
        ({"cases": [{"input": "a", "answer": [[1, 2], 3]}]}, "the rows of case 1 are not equally long"),
        ({"tolerance": {"cosin": 0.9}}, "unknown field `cosin`"),
        ({"tolerance": {"cosine": 2}}, "cosine"),
    ],
)
def test_a_file_that_says_it_otherwise_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(CannotServe, match=named):
        read_golden(written(tmp_path, FILE | change))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1', "[" * 100_000])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, content)

    with pytest.raises(CannotServe, match=f"golden file {path}"):
        read_golden(path)


def test_a_file_without_a_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="format"):
        read_golden(written(tmp_path, {key: value for key, value in FILE.items() if key != "format"}))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match=r"none\.json cannot be read: No such file"):
        read_golden(tmp_path / "none.json")


def test_vectors_are_compared_by_their_cosine(tmp_path: Path) -> None:
    drifts = compare(read_golden(written(tmp_path, FILE)), "m", "embed", [row(2, 0), row(1, 1)])

    assert [drift.value for drift in drifts] == pytest.approx([1, 0.5**0.5])
    assert [drift.drifted for drift in drifts] == [False, True]
    assert str(drifts[1]) == "case 2: cosine 0.707107, at least 0.99"


@pytest.mark.parametrize(
    ("task", "answer", "other"),
    [
        ("rerank", [8.0], row(8.01)),
        ("classify", [4.0, -8.0], row(4, -8.01)),
        ("token-classify", [[4.0, 1.0], [1.0, -8.0]], np.array([[4, 1], [1.01, -8]], np.float32)),
        ("sparse", [0.0, 8.0], row(0.01, 8)),
    ],
)
def test_all_else_by_the_largest_difference(task: Task, answer: list[Any], other: np.ndarray) -> None:
    [strict] = compare(golden(task, answer), "m", task, [other])
    [lax] = compare(golden(task, answer, tolerance=Tolerance(largest_difference=2e-3)), "m", task, [other])

    assert strict.value == pytest.approx(0.01 / 8, rel=1e-3)
    assert (strict.drifted, lax.drifted) == (True, False)


def test_the_worst_case_is_named_with_its_drift_and_the_tolerance() -> None:
    cases = golden("classify", [1.0, 0.0], [1.0, 0.0], [1.0, 0.0])

    with pytest.raises(CannotServe, match=r"model m: .* case 2: largest difference 0.5, at most 0.001"):
        check(cases, "m", "classify", [row(1.2, 0), row(1.5, 0), row(1, 0)])


def test_what_is_no_number_has_drifted_most() -> None:
    with pytest.raises(CannotServe, match="case 1"):
        check(golden("embed", [1.0, 0.0], [1.0, 0.0]), "m", "embed", [row(float("nan"), 0), row(-1, 0)])


def test_answers_of_another_kind_are_not_compared() -> None:
    with pytest.raises(CannotServe, match="for the task embed, and it is to sparse"):
        compare(golden("embed", [1.0]), "m", "sparse", [row(1)])
    with pytest.raises(CannotServe, match=r"golden case 1 has the shape \[3\], not \[2\]"):
        compare(golden("embed", [1.0, 2.0]), "m", "embed", [row(1, 2, 3)])


finite = st.floats(-1e6, 1e6, width=32)


@given(arrays(np.float32, st.sampled_from([(1,), (7,), (3, 4)]), elements=finite))
def test_what_is_recorded_is_read_back_as_the_same_numbers(tmp_path_factory: Any, answer: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "recorded.json"

    write_golden(record("m", "r", "classify", [("a", "b")], [answer]), path)

    read = read_golden(path)
    assert (read.model, read.revision, read.inputs) == ("m", "r", [("a", "b")])
    assert np.array_equal(np.array(read.cases[0].answer, np.float32), answer)
    check(read, "m", "classify", [answer])


def test_an_answer_that_is_not_finite_is_not_recorded() -> None:
    with pytest.raises(CannotServe, match="case 2 is not finite"):
        record("m", None, "embed", ["a", "b"], [row(1), row(float("inf"))])


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="cannot be written: No such file"):
        write_golden(golden("embed", [1.0]), tmp_path / "none" / "g.json")


def test_inputs_are_one_text_or_two_a_line() -> None:
    assert read_inputs(['"a"\n', "\n", '["a", "b\\n"]\n']) == ["a", ("a", "b\n")]


@pytest.mark.parametrize(
    ("lines", "named"),
    [(["a"], "line 1"), (['"a"', '["a"]'], "line 2"), (["3"], "line 1"), ([], "no inputs"), (["\n"], "no inputs")],
)
def test_a_line_that_is_neither_is_refused(lines: list[str], named: str) -> None:
    with pytest.raises(CannotServe, match=named):
        read_inputs(lines)
