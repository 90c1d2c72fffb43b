"""Whatever arrives is a question or an error for the caller."""

import json
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import HttpFault, describe
from gateway.frames import Frame
from gateway.question import read_question
from inference import InvalidRequest, Task
from tests.gateway.fakes import served

TASKS = get_args(Task)
NAMES = st.sampled_from(["text", "query", "text_pair", "input_ids", "attention_mask", "token_type_ids", "x", ""])
NUMBERS = st.integers(-3, 5) | st.sampled_from([2**31, 2**63, 2**64, -(2**70), 10**400])
ELEMENTS = st.sampled_from(["w0", "", "ä"]) | NUMBERS | st.none() | st.booleans() | st.floats(allow_nan=False)
DATA = st.lists(ELEMENTS | st.lists(ELEMENTS, max_size=3), max_size=4)
JUNK = st.recursive(ELEMENTS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner))
INPUT = st.fixed_dictionaries(
    {"name": NAMES, "shape": st.lists(NUMBERS, max_size=3), "datatype": st.sampled_from(["BYTES", "INT64", "FP32"])},
    optional={"data": DATA, "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": NUMBERS}) | JUNK},
)
FITTING = st.integers(1, 2).flatmap(
    lambda rows: st.fixed_dictionaries(
        {
            "name": NAMES,
            "shape": st.just([rows, 2]) | st.just([rows, 1]),
            "datatype": st.sampled_from(["BYTES", "INT64"]),
            "data": st.lists(st.just("w0") | st.integers(0, 1), min_size=rows, max_size=2 * rows),
        }
    )
)
OUTPUT = st.fixed_dictionaries(
    {"name": st.sampled_from(["embedding", "score", "label", "row"])},
    optional={"parameters": st.fixed_dictionaries({}, optional={"binary_data": ELEMENTS, "classification": NUMBERS})},
)
BODY = st.fixed_dictionaries(
    {"inputs": st.lists(FITTING | INPUT, max_size=3)},
    optional={
        "outputs": st.lists(OUTPUT, max_size=3),
        "id": st.text(max_size=3) | JUNK,
        "parameters": st.dictionaries(st.sampled_from(["timeout", "priority", "truncate", "top_k", "zzz"]), ELEMENTS)
        | JUNK,
        "model_name": st.just("other"),
        "zzz": JUNK,
    },
)


def model(task: Task):
    return replace(served(), task=task, labels=("a", "b"))


@given(BODY | JUNK, st.binary(max_size=20), st.sampled_from(TASKS))
def test_any_body_is_a_question_or_an_error_for_the_caller(body: object, tail: bytes, task: Task) -> None:
    frame = Frame(json.dumps(body).encode(), memoryview(tail))

    try:
        question = read_question(frame, model(task))
    except (HttpFault, InvalidRequest) as error:
        status = describe(error).status
    else:
        status = 200
        assert question.outputs
    assert status in {200, 400}


@given(st.binary(max_size=50), st.binary(max_size=20), st.booleans(), st.sampled_from(TASKS))
def test_any_bytes_are_a_question_or_an_error_for_the_caller(head: bytes, tail: bytes, raw: bool, task: Task) -> None:
    frame = Frame(b"" if raw else head, memoryview(tail), raw)

    try:
        question = read_question(frame, model(task))
    except (HttpFault, InvalidRequest) as error:
        status = describe(error).status
    else:
        status = 200
        assert raw and question.inputs.items == [tail.decode()]
    assert status in {200, 400}


@pytest.mark.parametrize("task", TASKS)
def test_a_text_is_an_input_of_every_task_but_that_of_pairs(task: Task) -> None:
    frame = Frame(b"", memoryview(b"w0"), raw=True)

    if task == "rerank":
        with pytest.raises(InvalidRequest, match="is missing"):
            read_question(frame, model(task))
        return
    assert read_question(frame, model(task)).inputs.items == ["w0"]
