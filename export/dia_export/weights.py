"""Attaches a checkpoint's weights to a traced graph, each read only when it is written out."""

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters
from torch import Tensor

from dia_export.quantize import quantize_blockwise
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
) -> None:
    """Give every parameter of a traced graph its data, in the form the recipe wants.

    Quantised matrices become MatMulNBits and GatherBlockQuantized nodes. Matrices stored in another
    dtype than the graph computes in get a Cast, which onnxruntime folds when it loads the graph.

    Args:
        model: As :func:`dia_export.trace.trace` returns it; changed in place.
        weights: By initializer name.
        storage: Dtype of unquantised matrices; None keeps the checkpoint's.
        compute: Dtype the graph computes in.
        quantization: As a recipe has it; empty: nothing is quantised.
    """
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if name not in weights:
            continue  # a buffer, with its data already
        weight = weights[name]
        if blocks := quantization.get(_part(str(graph.name), value)):
            _quantize(graph, value, weight, blocks)
            continue
        kept = storage or str(weight.dtype).removeprefix("torch.")
        dtype = kept if len(weight.shape) >= 2 else "float32"
        value.dtype = ir.DataType[_ONNX_NAMES[dtype]]
        value.const_value = _lazy(name, weight.shape, dtype, weight.load)
        if dtype != compute and len(weight.shape) >= 2:
            _cast(graph, value, compute)


_ONNX_NAMES = {
    "float32": "FLOAT",
    "float16": "FLOAT16",
    "bfloat16": "BFLOAT16",
    "uint8": "UINT8",
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


def _quantize(graph: ir.Graph, value: ir.Value, weight: Weight, blocks: Blocks) -> None:
    """Replace a weight by its quantised form, and the nodes that use it by theirs."""
    name, (rows, columns) = str(value.name), weight.shape
    is_table = _part("", value) == "embedding"
    # A table's rows are its vectors; a matrix is input-first, and its outputs have the scales.
    inputs, outputs = (columns, rows) if is_table else (rows, columns)
    count = -(-inputs // blocks.block_size)
    shape: tuple[int, ...] = (outputs, count, blocks.block_size * blocks.bits // 8)
    if is_table:
        shape = (outputs, inputs * blocks.bits // 8)
    scales: list[Tensor] = []

    def load() -> tuple[Tensor, Tensor]:
        tensor = weight.load()
        return quantize_blockwise(tensor.T if is_table else tensor, blocks.bits, blocks.block_size)

    def load_packed() -> Tensor:
        packed, scale = load()
        scales[:] = [scale]  # written right after; small enough to keep until then
        return packed.flatten(1)[:, : shape[1]] if is_table else packed

    def load_scales() -> Tensor:
        return scales[0] if scales else load()[1]

    packed = _initializer(graph, f"{name}.packed", shape, "uint8", load_packed)
    scale = _initializer(graph, f"{name}.scales", (outputs, count), "float32", load_scales)
    for node in [use.node for use in value.uses()]:
        if is_table:
            operator, operands = "GatherBlockQuantized", [packed, node.inputs[1], scale]
            attributes = {"gather_axis": 0, "quantize_axis": 1}
        else:
            operator, operands = "MatMulNBits", [node.inputs[0], packed, scale]
            attributes = {"K": inputs, "N": outputs, "accuracy_level": _INT8_ACTIVATIONS}
        replacement = ir.node(
            operator,
            operands,
            attributes | {"bits": blocks.bits, "block_size": blocks.block_size},
            domain="com.microsoft",
            name=node.name,
        )
        _replace(graph, node, replacement)
    del graph.initializers[name]


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


def _replace(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    output = old.outputs[0]
    new.outputs[0].name, new.outputs[0].shape = output.name, output.shape
    new.outputs[0].type = output.type
    ir.convenience.replace_nodes_and_values(graph, old, [old], [new], [output], new.outputs)
