"""Writes the ONNX graph with 8-bit weights, whose vectors of a text do not depend on the texts in the same batch.

ONNX Runtime's dynamic quantisation gives all activations of a batch one scale, so that a text's neighbours round it.
Here each token has a scale of its own (row-wise symmetric quantisation, as in Dettmers et al., "LLM.int8()", 2022):
a text gets the same vector alone and among others, and one that is closer to fp32 (docs/decisions.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distill.export.onnx_graph import check_packages, quiet_exporter

# ONNX is an optional package: it is imported where a graph is written.
if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Constants of the graph: a row's axis, the step of 127 to each side, the least scale, the middle of 8 bits.
_AXIS, _STEP, _LEAST, _MIDDLE, _ZERO_POINT = (f"row_{name}" for name in ("axis", "step", "least", "middle", "zero"))


def write_int8(fp32_path: Path, path: Path) -> None:
    """Write the graph with 8-bit weights; activations are quantised at run time, each token by its own scale.

    Args:
        fp32_path: The graph that `distill.export.onnx_graph.write_onnx` wrote.
        path: Path of the new graph; its folder must exist.

    Raises:
        InputError: A package of the extra `export` is missing.
    """
    check_packages()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet_exporter():
        quantize_dynamic(
            fp32_path,
            path,
            per_channel=True,
            # Seven bits: sums of eight-bit products overflow on processors without VNNI, and the graph may be served
            # anywhere.
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    model = onnx.load(path)
    _scale_rows(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _scale_rows(model: ModelProto) -> None:
    """Give each row of activations a scale of its own, in place of the batch's."""
    from onnx import numpy_helper

    graph = model.graph
    quantized = [node for node in graph.node if node.op_type == "DynamicQuantizeLinear"]
    scales, zero_points = ({node.output[place] for node in quantized} for place in (1, 2))
    # By its name, each product of a row's scale with the weights' scales.
    products = {node.output[0]: node for node in graph.node if node.op_type == "Mul" and scales & {*node.input}}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            nodes += _quantize_rows(node)
        elif node.op_type == "MatMulInteger":
            assert node.input[2] in zero_points, "a product of other integers than activations and weights"
            node.input[2] = _ZERO_POINT
            nodes.append(node)
        elif factor := {*node.input} & products.keys():
            nodes += _rescale(node, products[factor.pop()], scales)
        elif node.output[0] not in products:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    constants = {
        _AXIS: np.array([-1], np.int64),
        _STEP: np.float32(1 / 127),
        _LEAST: np.float32(1e-12),
        _MIDDLE: np.float32(128),
        _ZERO_POINT: np.uint8(128),
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())


def _quantize_rows(node: NodeProto) -> list[NodeProto]:
    """Return what quantises the rows of a node's input to 1 … 255 around 128, and gives their scales."""
    from onnx import TensorProto, helper

    (values,), (quantized, scale, _) = node.input, node.output
    steps = [f"{quantized}_{name}" for name in ("size", "largest", "step", "parts", "whole", "shifted")]
    size, largest, step, parts, whole, shifted = steps
    return [
        helper.make_node("Abs", [values], [size]),
        helper.make_node("ReduceMax", [size, _AXIS], [largest], keepdims=1),
        helper.make_node("Mul", [largest, _STEP], [step]),
        helper.make_node("Max", [step, _LEAST], [scale]),
        helper.make_node("Div", [values, scale], [parts]),
        helper.make_node("Round", [parts], [whole]),
        helper.make_node("Add", [whole, _MIDDLE], [shifted]),
        helper.make_node("Cast", [shifted], [quantized], to=TensorProto.UINT8),
    ]


def _rescale(node: NodeProto, product: NodeProto, scales: set[str]) -> list[NodeProto]:
    """Return what multiplies by the weights' scales and then by the rows'.

    ONNX Runtime would fuse one product of both with the integer product before it, and take the rows' scales for one.
    """
    from onnx import helper

    (row,) = scales & {*product.input}
    (weights,) = {*product.input} - {row}
    (sums,) = {*node.input} - {product.output[0]}
    scaled = f"{node.output[0]}_by_channel"
    return [
        helper.make_node("Mul", [sums, weights], [scaled]),
        helper.make_node("Mul", [scaled, row], list(node.output)),
    ]
