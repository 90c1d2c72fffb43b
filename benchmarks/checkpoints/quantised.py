"""
The weights of a quantised ONNX export of a BERT, as float32 under the names that PyTorch gave them.

Exports keep the names of embeddings, norms and biases, but not of linear weights: a linear layer is
found by its node, whose path is the module's. Knows two schemes: int8 with one scale, 4 bits in blocks.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

Weights: TypeAlias = dict[str, NDArray[np.float32]]
Tensors: TypeAlias = Mapping[str, NDArray[Any]]

_SUFFIX: Final = "_quantized"
_MIDDLE: Final = 8  # of the 16 values that 4 bits hold: what stands for zero


def read_weights(export: bytes) -> Weights:
    """Return all weights of the graph; linear ones as PyTorch keeps them, [out, in]."""
    graph = onnx.load_model_from_string(export).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name: array for name, array in tensors.items() if name.endswith((".weight", ".bias"))}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            table = node.input[1].removesuffix("_scale")
            weights[table] = _int8(tensors, table)
        elif node.op_type == "MatMulInteger":
            weights[_module(node) + ".weight"] = _int8(tensors, node.input[1].removesuffix(_SUFFIX)).T
        elif node.op_type == "MatMulNBits":
            weights[_module(node) + ".weight"] = _four_bits(tensors, node)
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}


def _module(node: onnx.NodeProto) -> str:
    """`/bert/encoder/layer.0/output/dense/MatMul_quant` is what became of `bert.encoder.layer.0.output.dense`."""
    return str(node.name).strip("/").rpartition("/")[0].replace("/", ".")


def _int8(tensors: Tensors, name: str) -> NDArray[np.float32]:
    """Return an embedding table, or a linear weight as ONNX multiplies by it, [in, out]."""
    values, scale, zero = (tensors[name + part] for part in (_SUFFIX, "_scale", "_zero_point"))
    return (values.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)


def _four_bits(tensors: Tensors, node: onnx.NodeProto) -> NDArray[np.float32]:
    """Return a linear weight, [out, in], from two values a byte and one scale a block of inputs."""
    inputs = next(attribute.i for attribute in node.attribute if attribute.name == "K")
    packed, flat_scales = (tensors[name] for name in node.input[1:])  # [out, blocks, block / 2], [out * blocks]
    values = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1)
    scales = flat_scales.reshape(*packed.shape[:2], 1)
    blocks = (values.astype(np.float32) - _MIDDLE) * scales.astype(np.float32)
    return blocks.reshape(len(packed), -1)[:, :inputs]
