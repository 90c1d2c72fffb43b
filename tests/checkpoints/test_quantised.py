"""What is read out of an export computes what the export computes."""

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from benchmarks.checkpoints.quantised import read_weights


def export(nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], inputs: list[onnx.ValueInfoProto]) -> bytes:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "model", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()


@given(st.integers(0, 1000), st.integers(0, 255))
def test_an_int8_linear_layer_multiplies_as_the_export_does(seed: int, zero: int) -> None:
    chance = np.random.default_rng(seed)
    tensors = {
        "w_quantized": chance.integers(0, 256, (3, 5), dtype=np.uint8),
        "w_scale": np.float32(2.0 ** chance.integers(-9, 1)),
        "w_zero_point": np.uint8(zero),
    }
    nodes = [
        helper.make_node(
            "MatMulInteger", ["x", "w_quantized", "", "w_zero_point"], ["p"], "/bert/pooler/dense/M_quant"
        ),
        helper.make_node("Cast", ["p"], ["q"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["q", "w_scale"], ["y"]),
    ]
    model = export(nodes, tensors, [helper.make_tensor_value_info("x", TensorProto.UINT8, [2, 3])])
    x = chance.integers(0, 256, (2, 3), dtype=np.uint8)

    weights = read_weights(model)

    assert weights.keys() == {"bert.pooler.dense.weight"}
    expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
    np.testing.assert_array_equal(x @ weights["bert.pooler.dense.weight"].T, expected)  # all exact in float32


def test_an_int8_embedding_table_is_read_as_the_export_looks_it_up() -> None:
    tensors = {
        "bert.words.weight_quantized": np.arange(12, dtype=np.int8).reshape(4, 3),
        "bert.words.weight_scale": np.float32(0.25),
        "bert.words.weight_zero_point": np.int8(5),
    }
    nodes = [
        helper.make_node("Gather", ["bert.words.weight_quantized", "x"], ["rows"], "/bert/words/Gather"),
        helper.make_node(
            "DequantizeLinear", ["rows", "bert.words.weight_scale", "bert.words.weight_zero_point"], ["y"]
        ),
    ]
    model = export(nodes, tensors, [helper.make_tensor_value_info("x", TensorProto.INT64, [2])])
    x = np.array([3, 1])

    weights = read_weights(model)

    assert weights.keys() == {"bert.words.weight"}
    np.testing.assert_array_equal(weights["bert.words.weight"][x], ReferenceEvaluator(model).run(None, {"x": x})[0])


def test_four_bits_are_unpacked_low_half_first_and_scaled_by_block() -> None:
    values = np.random.default_rng(0).integers(0, 16, (2, 2, 32))  # [out, blocks, block]: 50 of 64 inputs are real
    scales = np.array([0.5, 2.0, 0.25, 1.0], np.float32)
    tensors = {"w_Q4": (values[..., ::2] | values[..., 1::2] << 4).astype(np.uint8), "w_scales": scales}
    node = helper.make_node(
        "MatMulNBits", ["x", "w_Q4", "w_scales"], ["y"], "/classifier/M_Q4", K=50, N=2, bits=4, block_size=32
    )
    model = export([node], tensors, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 50])])

    weights = read_weights(model)

    expected = ((values - 8) * scales.reshape(2, 2, 1)).reshape(2, 64)[:, :50]
    assert weights.keys() == {"classifier.weight"}
    np.testing.assert_array_equal(weights["classifier.weight"], expected)


def test_what_was_not_quantised_keeps_its_name_and_value() -> None:
    kept = {"bert.LayerNorm.weight": np.float32([1, 2]), "bert.LayerNorm.bias": np.float32([3, 4])}
    node = helper.make_node("Identity", ["x"], ["y"])
    other = {"onnx::Constant_1": np.float32([5])}
    model = export([node], {**kept, **other}, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])])

    weights = read_weights(model)

    assert weights.keys() == kept.keys()
    np.testing.assert_array_equal(weights["bert.LayerNorm.bias"], [3, 4])
