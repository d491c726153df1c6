"""Attaches a checkpoint's weights to a traced graph, each read only when it is written out."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir import tensor_adapters
from torch import Tensor

from dia_export.quantize import quantize_blockwise, quantize_columns
from dia_models.checkpoint import Weight
from dia_ort.manifest import Blocks

LOGITS = "logits.weight"

# MatMulNBits may quantise the activations to 8 bits, block by block: the fast integer kernels.
_INT8_ACTIVATIONS = 4


def attach_weights(
    model: ir.Model,
    weights: Mapping[str, Weight],
    *,
    storage: str | None,
    compute: str,
    quantization: Mapping[str, Blocks],
    rounded: Mapping[str, tuple[Tensor, Tensor]] = MappingProxyType({}),
) -> set[str]:
    """Give every parameter of a traced graph its data, in the form the recipe wants.

    Quantised matrices become MatMulNBits, MatMulIntegerToFloat and GatherBlockQuantized nodes; what
    there is no such product for, in half precision, is widened when onnxruntime loads the graph, as
    are matrices stored in another dtype than the graph computes in.

    Args:
        model: As :func:`dia_export.trace.trace` returns it; changed in place.
        weights: By initializer name.
        storage: Dtype of unquantised matrices; None keeps the checkpoint's.
        compute: Dtype the graph computes in.
        quantization: As a recipe has it; empty: nothing is quantised.
        rounded: Levels and scales of matrices that are in blocks already, by initializer name.

    Returns:
        The names of the initializers that have the weights.
    """
    graph = model.graph
    names = set()
    for name, value in list(graph.initializers.items()):
        if name not in weights:
            continue  # a buffer, with its data already
        weight = weights[name]
        if blocks := quantization.get(_part(str(graph.name), value)):
            names |= _quantize(graph, value, weight, blocks, compute, rounded.get(name))
            continue
        names.add(name)
        kept = storage or str(weight.dtype).removeprefix("torch.")
        dtype = kept if len(weight.shape) >= 2 else "float32"
        value.dtype = ir.DataType[_ONNX_NAMES[dtype]]
        value.const_value = _lazy(name, weight.shape, dtype, weight.load)
        if dtype != compute and len(weight.shape) >= 2:
            _cast(graph, value, compute)
    return names


_ONNX_NAMES = {
    "float32": "FLOAT",
    "float16": "FLOAT16",
    "bfloat16": "BFLOAT16",
    "uint8": "UINT8",
    "int8": "INT8",
}


def _lazy(
    name: str, shape: tuple[int, ...], dtype: str, load: Callable[[], Tensor]
) -> ir.LazyTensor:
    """A tensor that is loaded, and converted, each time it is asked for; never kept."""

    def evaluate() -> ir.TensorProtocol:
        tensor = load().to(getattr(torch, dtype)).contiguous()
        return tensor_adapters.TorchTensor(tensor, name=name)

    return ir.LazyTensor(
        evaluate, dtype=ir.DataType[_ONNX_NAMES[dtype]], shape=ir.Shape(shape), name=name
    )


def _part(graph: str, value: ir.Value) -> str:
    """The part of the model, as recipes name it, that a weight belongs to; empty: none."""
    users = {use.node.op_type for use in value.uses()}
    if users == {"Gather"}:
        return "embedding"
    if users != {"MatMul"}:
        return ""
    return "logits" if value.name == "logits.weight" else graph


def _quantize(
    graph: ir.Graph,
    value: ir.Value,
    weight: Weight,
    blocks: Blocks,
    compute: str,
    rounded: tuple[Tensor, Tensor] | None,
) -> set[str]:
    """Replace a weight by its quantised form, and the nodes that use it by theirs."""
    if blocks.block_size is not None:
        pair = _quantize_blocks(
            graph, value, weight, blocks.bits, blocks.block_size, compute, rounded
        )
    elif compute == "float32":
        pair = _quantize_columns(graph, value, weight)
    else:
        pair = _widen_columns(graph, value, weight, compute)
    del graph.initializers[str(value.name)]
    return {str(initializer.name) for initializer in pair}


def _quantize_blocks(
    graph: ir.Graph,
    value: ir.Value,
    weight: Weight,
    bits: int,
    block_size: int,
    compute: str,
    rounded: tuple[Tensor, Tensor] | None,
) -> tuple[ir.Value, ir.Value]:
    """MatMulNBits for a matrix, GatherBlockQuantized for a table."""
    name, (rows, columns) = str(value.name), weight.shape
    is_table = _part("", value) == "embedding"
    # A table's rows are its vectors; a matrix is input-first, and its outputs have the scales.
    inputs, outputs = (columns, rows) if is_table else (rows, columns)
    count = -(-inputs // block_size)
    shape: tuple[int, ...] = (outputs, count, block_size * bits // 8)
    if is_table:
        shape = (outputs, inputs * bits // 8)

    def load() -> tuple[Tensor, Tensor]:
        if rounded is not None:
            return rounded
        tensor = weight.load()
        packed, scales = quantize_blockwise(tensor.T if is_table else tensor, bits, block_size)
        return (packed.flatten(1)[:, : shape[1]] if is_table else packed), scales

    packed, scales = _quantized_pair(graph, name, (shape, "uint8"), (outputs, count), load)
    users = [use.node for use in value.uses()]
    operand = scales
    if compute != "float32":  # the scales have the dtype of what comes out
        cast = _cast_node(scales, compute)
        graph.insert_before(users[0], cast)
        operand = cast.outputs[0]
    for node in users:
        if is_table:
            operator, operands = "GatherBlockQuantized", [packed, node.inputs[1], operand]
            attributes = {"gather_axis": 0, "quantize_axis": 1}
        else:
            operator, operands = "MatMulNBits", [node.inputs[0], packed, operand]
            attributes = {"K": inputs, "N": outputs, "accuracy_level": _INT8_ACTIVATIONS}
        replacement = ir.node(
            operator,
            operands,
            attributes | {"bits": bits, "block_size": block_size},
            domain="com.microsoft",
            name=node.name,
        )
        _replace(graph, node, [replacement])
    return packed, scales


def _quantize_columns(
    graph: ir.Graph, value: ir.Value, weight: Weight
) -> tuple[ir.Value, ir.Value]:
    """A product in whole numbers, each row of activations divided by its own largest magnitude.

    onnxruntime's DynamicQuantizeMatMul takes one scale for all rows, which would make a request's
    speech depend on its neighbours in the batch.
    """
    levels, scales = _column_pair(graph, value, weight)
    step = _constant(graph, "activation.step", np.float32(1 / 127))
    zero = _constant(graph, "activation.zero", np.uint8(128))
    least = _constant(graph, "activation.least", np.float32(1e-30))  # for rows of zeros
    axis = _constant(graph, "activation.axis", np.array([-1]))
    for node in [use.node for use in value.uses()]:
        rows = node.inputs[0]
        magnitude = ir.node("Abs", [rows])
        largest = ir.node("ReduceMax", [magnitude.outputs[0], axis], {"keepdims": 1})
        divisor = ir.node("Max", [largest.outputs[0], least])
        scaled = ir.node("Div", [rows, divisor.outputs[0]])
        quantized = ir.node("QuantizeLinear", [scaled.outputs[0], step, zero])
        product = ir.node(
            "MatMulIntegerToFloat",
            [quantized.outputs[0], levels, step, scales, zero],
            domain="com.microsoft",
        )
        result = ir.node("Mul", [product.outputs[0], divisor.outputs[0]], name=node.name)
        nodes = [magnitude, largest, divisor, scaled, quantized, product, result]
        for part in nodes[:-1]:
            part.name = f"{node.name}.{part.op_type}"
            part.outputs[0].name = f"{node.outputs[0].name}.{part.op_type}"
        _replace(graph, node, nodes)
    return levels, scales


def _widen_columns(
    graph: ir.Graph, value: ir.Value, weight: Weight, compute: str
) -> tuple[ir.Value, ir.Value]:
    """The levels times their scales, for an ordinary product: GPUs have none in whole numbers.

    In float32 until the end, because onnxruntime folds on the CPU, which multiplies no float16.
    """
    levels, scales = _column_pair(graph, value, weight)
    wide = _cast_node(levels, "float32")
    product = ir.node("Mul", [wide.outputs[0], scales], name=f"{value.name}.widen")
    product.outputs[0].name = f"{value.name}.widened"
    narrow = _cast_node(product.outputs[0], compute)
    users = [use.node for use in value.uses()]
    _redirect(value, narrow)
    graph.insert_before(users[0], [wide, product, narrow])
    return levels, scales


def _column_pair(graph: ir.Graph, value: ir.Value, weight: Weight) -> tuple[ir.Value, ir.Value]:
    """The levels of a matrix, one scale for each output, and the scales."""
    return _quantized_pair(
        graph,
        str(value.name),
        (weight.shape, "int8"),
        (weight.shape[1],),
        lambda: quantize_columns(weight.load()),
    )


def _quantized_pair(
    graph: ir.Graph,
    name: str,
    packed: tuple[tuple[int, ...], str],
    scales: tuple[int, ...],
    load: Callable[[], tuple[Tensor, Tensor]],
) -> tuple[ir.Value, ir.Value]:
    """The initializers of a quantised matrix: its levels, of a shape and dtype, and its scales."""
    kept: list[Tensor] = []

    def load_levels() -> Tensor:
        levels, scale = load()
        kept[:] = [scale]  # written right after; small enough to keep until then
        return levels

    def load_scales() -> Tensor:
        return kept[0] if kept else load()[1]

    return (
        _initializer(graph, f"{name}.packed", *packed, load_levels),
        _initializer(graph, f"{name}.scales", scales, "float32", load_scales),
    )


def _constant(graph: ir.Graph, name: str, array: np.generic | NDArray[Any]) -> ir.Value:
    """A small initializer, registered once."""
    if name not in graph.initializers:
        data = np.asarray(array)
        tensor = ir.tensor(data, name=name)
        graph.register_initializer(
            ir.Value(
                name=name,
                shape=ir.Shape(data.shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        )
    return graph.initializers[name]


def _cast(graph: ir.Graph, value: ir.Value, compute: str) -> None:
    """Convert an initializer before its use, or what is looked up in it where it is a table."""
    lookups = [use.node for use in value.uses() if use.node.op_type == "Gather"]
    for node in lookups:
        found = node.outputs[0]
        cast = _cast_node(found, compute)
        cast.outputs[0].shape, cast.outputs[0].type = found.shape, found.type
        found.type = value.type
        _redirect(found, cast)
        graph.insert_after(node, cast)
    if others := [use.node for use in value.uses() if use.node not in lookups]:
        cast = _cast_node(value, compute)
        _redirect(value, cast, keep=lookups)
        graph.insert_before(others[0], cast)


def _redirect(value: ir.Value, cast: ir.Node, keep: Sequence[ir.Node] = ()) -> None:
    """Let the users of a value take the output of its Cast instead."""
    for use in list(value.uses()):
        if use.node is not cast and use.node not in keep:
            use.node.replace_input_with(use.idx, cast.outputs[0])


def _cast_node(value: ir.Value, dtype: str) -> ir.Node:
    to = ir.DataType[_ONNX_NAMES[dtype]]
    return ir.node("Cast", [value], {"to": to.value}, name=f"{value.name}.cast")


def _initializer(
    graph: ir.Graph, name: str, shape: tuple[int, ...], dtype: str, load: Callable[[], Tensor]
) -> ir.Value:
    tensor = _lazy(name, shape, dtype, load)
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _replace(graph: ir.Graph, old: ir.Node, new: Sequence[ir.Node]) -> None:
    """Put nodes in the place of one; the last gives what it gave."""
    output, result = old.outputs[0], new[-1].outputs[0]
    result.name, result.shape, result.type = output.name, output.shape, output.type
    ir.convenience.replace_nodes_and_values(graph, old, [old], new, [output], [result])
