import json
import struct
from itertools import chain

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tensors import InputTensor, Tensor, draw_tensors, read_tensors
from inference import InvalidRequest

TEXTS = st.lists(st.text(max_size=12), min_size=1, max_size=6)
SHAPES = st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 4), max_size=8)


def told(**changes: object) -> InputTensor:
    return msgspec.convert({"name": "x", "shape": [2], "datatype": "BYTES", **changes}, InputTensor)


def packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def in_bytes(size: int, **changes: object) -> InputTensor:
    return told(parameters={"binary_data_size": size}, **changes)


@given(TEXTS)
def test_texts_mean_the_same_as_json_and_as_bytes(texts: list[str]) -> None:
    tail = packed(*(text.encode() for text in texts))

    by_json = read_tensors([told(shape=[len(texts)], data=texts)], b"")
    by_bytes = read_tensors([in_bytes(len(tail), shape=[len(texts)])], tail)

    assert by_json["x"].values == by_bytes["x"].values == texts


@pytest.mark.parametrize(("datatype", "dtype"), [("INT32", "<i4"), ("INT64", "<i8")])
def test_whole_numbers_mean_the_same_as_json_and_as_bytes(datatype: str, dtype: str) -> None:
    numbers = [[1, 2, 3], [-(2**31), 0, 2**31 - 1]]
    tail = np.array(numbers, dtype).tobytes()

    nested = read_tensors([told(shape=[2, 3], datatype=datatype, data=numbers)], b"")["x"]
    flat = read_tensors([told(shape=[2, 3], datatype=datatype, data=list(chain(*numbers)))], b"")["x"]
    by_bytes = read_tensors([in_bytes(len(tail), shape=[2, 3], datatype=datatype)], tail)["x"]

    for tensor in (nested, flat, by_bytes):
        assert tensor.shape == (2, 3)
        np.testing.assert_array_equal(tensor.values, list(chain(*numbers)))


def test_inputs_in_bytes_follow_each_other_and_skip_those_in_json() -> None:
    tail = packed(b"a") + np.array([7], "<i8").tobytes()
    inputs = [
        in_bytes(5, name="one", shape=[1]),
        told(name="two", shape=[1], data=["b"]),
        in_bytes(8, name="three", shape=[1], datatype="INT64"),
    ]

    tensors = read_tensors(inputs, tail)

    assert [list(tensors[name].values) for name in ("one", "two", "three")] == [["a"], ["b"], [7]]


@pytest.mark.parametrize("shape", [[0], [2**40, 0], [0, 2**63]])
def test_an_input_without_elements_is_refused_whatever_its_other_dimensions(shape: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        read_tensors([in_bytes(0, shape=shape)], b"")


@pytest.mark.parametrize(
    ("inputs", "tail", "field", "says"),
    [
        ([told(data=["a"])], b"", "x", "has 1 elements, and shape [2] has 2"),
        ([told(data=["a", "b", "c"])], b"", "x", "has 3 elements"),
        ([told(shape=[], data=[])], b"", "x", "has 0 elements, and shape [] has 1"),
        ([told(data=["a", 1])], b"", "x[1]", "not of the datatype BYTES"),
        ([told(datatype="INT64", data=[1, "2"])], b"", "x[1]", "not of the datatype INT64"),
        ([told(datatype="INT32", data=[1, 2**31])], b"", "x", "INT32 cannot hold"),
        ([told(datatype="FP32", data=[1, 2])], b"", "x", "'FP32' is not taken"),
        ([told(datatype="bytes", data=["a", "b"])], b"", "x", "'bytes' is not taken"),
        ([told(shape=[2, 2], data=[["a", "b"], ["c"]])], b"", "x", "do not make the shape"),
        ([told(shape=[2, 2], data=[["a", "b"], "c", "d"])], b"", "x", "do not make the shape"),
        ([told(shape=[4], data=[["a", "b"], ["c", "d"]])], b"", "x", "do not make the shape"),
        ([told()], b"", "x", "either in data, or"),
        ([in_bytes(2, data=["a", "b"])], b"ab", "x", "either in data, or"),
        ([told(data=["a", "b"]), told(data=["a", "b"])], b"", "x", "is there twice"),
        ([told(data=["a", "b"])], b"z", "inputs", "claim 0 bytes behind the JSON, and there are 1"),
        ([in_bytes(10)], packed(b"a", b"b") + b"z", "inputs", "claim 10 bytes"),
        ([in_bytes(10)], packed(b"a", b"b")[:-1], "x", "is cut off: 9 of its 10 bytes"),
        ([in_bytes(16, datatype="INT64")], bytes(15), "x", "is cut off: 15 of its 16 bytes"),
        ([in_bytes(15, datatype="INT64")], bytes(15), "x", "shape [2] of INT64 has 16 bytes"),
        ([in_bytes(16, datatype="INT32")], bytes(16), "x", "has 16 bytes, and shape [2] of INT32 has 8 bytes"),
        ([in_bytes(5)], packed(b"a"), "x", "has 1 elements in 5 of its 5 bytes, and shape [2] has 2"),
        ([in_bytes(15)], packed(b"a", b"b", b"c"), "x", "has 2 elements in 10 of its 15 bytes"),
        ([in_bytes(9)], packed(b"a") + struct.pack("<I", 9), "x[1]", "is cut off: 0 of its 9 bytes"),
        ([in_bytes(8)], packed(b"a") + b"\x01\0\0", "x", "has 1 elements in 5 of its 8 bytes"),
        ([in_bytes(10)], packed(b"a", b"\xff"), "x[1]", "is not UTF-8"),
        ([in_bytes(10, shape=[2**63 - 1] * 8)], packed(b"a", b"b"), "x", "has 2 elements"),
    ],
)
def test_what_does_not_fit_together_names_the_input(
    inputs: list[InputTensor], tail: bytes, field: str, says: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_tensors(inputs, tail)

    assert caught.value.field == field
    assert says in str(caught.value)


@pytest.mark.parametrize("changes", [{"shape": [-1]}, {"shape": [1] * 9}, {"shape": [1.5]}, {"name": ""}, {"zzz": 1}])
def test_a_tensor_that_is_none_is_not_parsed(changes: dict) -> None:
    with pytest.raises(msgspec.ValidationError):
        told(**changes)


@given(
    st.lists(
        st.tuples(SHAPES, st.sampled_from(["BYTES", "INT32", "INT64", "FP16", ""]), st.none() | st.integers(0, 2**40)),
        max_size=4,
    ),
    st.binary(max_size=64) | TEXTS.map(lambda texts: packed(*(text.encode() for text in texts))),
)
def test_any_bytes_are_tensors_of_their_shape_or_an_error_that_names_an_input(pieces: list, tail: bytes) -> None:
    inputs = [
        told(name=f"x{index}", shape=shape, datatype=datatype)
        if size is None
        else in_bytes(size, name=f"x{index}", shape=shape, datatype=datatype)
        for index, (shape, datatype, size) in enumerate(pieces)
    ]

    tensors, field = {}, None
    try:
        tensors = read_tensors(inputs, tail)
    except InvalidRequest as error:
        field = error.field
    if field is not None:
        assert field == "inputs" or field.startswith("x")
        return
    assert [list(tensor.shape) for tensor in tensors.values()] == [one.shape for one in inputs]
    assert all(len(tensor.values) == np.prod(tensor.shape, dtype=object) for tensor in tensors.values())


@given(TEXTS)
def test_drawn_tensors_read_as_what_they_were(texts: list[str]) -> None:
    numbers = np.arange(len(texts), dtype=np.int32)
    outputs = [Tensor("t", "BYTES", (len(texts),), texts), Tensor("n", "INT32", (len(texts),), numbers)]

    body, parted_at = draw_tensors({"id": "a"}, outputs, [True, True])

    assert parted_at is not None
    inputs = [msgspec.convert(one, InputTensor) for one in json.loads(body[:parted_at])["outputs"]]
    read = read_tensors(inputs, body[parted_at:])
    assert read["t"].values == texts
    np.testing.assert_array_equal(read["n"].values, numbers)


def test_numbers_are_drawn_flat_as_json_and_little_endian_as_bytes() -> None:
    values = np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)
    outputs = [Tensor(name, "FP32", (2, 2), values.reshape(-1)) for name in ("a", "b")]

    body, parted_at = draw_tensors({"id": "7"}, outputs, [False, True])

    assert parted_at is not None
    assert json.loads(body[:parted_at]) == {
        "id": "7",
        "outputs": [
            {"name": "a", "datatype": "FP32", "shape": [2, 2], "data": [1.5, -2.0, 0.25, 3.0]},
            {"name": "b", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
        ],
    }
    assert body[parted_at:] == struct.pack("<4f", 1.5, -2.0, 0.25, 3.0)


def test_nothing_follows_the_json_when_nothing_is_wanted_in_bytes() -> None:
    body, parted_at = draw_tensors({}, [Tensor("t", "BYTES", (1,), ["ä"])], [False])

    assert parted_at is None
    assert json.loads(body) == {"outputs": [{"name": "t", "datatype": "BYTES", "shape": [1], "data": ["ä"]}]}
