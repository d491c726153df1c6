"""Attaches a checkpoint's weights to a traced graph, each read only when it is written out."""

from collections.abc import Callable, Mapping

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters
from torch import Tensor

from dia_export.quantize import quantize_blockwise
from dia_export.recipes import Quantization
from dia_models.checkpoint import Weight

LOGITS = "logits.weight"

# MatMulNBits may quantise the activations to 8 bits, block by block: the fast integer kernels.
_INT8_ACTIVATIONS = 4


def attach_weights(
    model: ir.Model,
    weights: Mapping[str, Weight],
    *,
    storage: str | None,
    compute: str,
    quantization: Quantization | None = None,
) -> None:
    """Give every parameter of a traced graph its data, in the form the recipe wants.

    Quantised matrices become MatMulNBits nodes. Matrices stored in another dtype than the graph
    computes in get a Cast, which onnxruntime folds when it loads the graph.

    Args:
        model: As :func:`dia_export.trace.trace` returns it; changed in place.
        weights: By initializer name.
        storage: Dtype of unquantised matrices; None keeps the checkpoint's.
        compute: Dtype the graph computes in.
        quantization: How to quantise the matrices that MatMul nodes multiply with; None: not.
    """
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if name not in weights:
            continue  # a buffer, with its data already
        weight = weights[name]
        uses = value.uses()
        if quantization and len(weight.shape) == 2 and all(_is_matmul(use.node) for use in uses):
            bits = quantization.logits_bits if name == LOGITS else quantization.bits
            _quantize_matmuls(graph, value, weight, bits, quantization.block_size)
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


def _is_matmul(node: ir.Node) -> bool:
    return node.op_type == "MatMul"


def _quantize_matmuls(
    graph: ir.Graph, value: ir.Value, weight: Weight, bits: int, block_size: int
) -> None:
    inputs, outputs = weight.shape
    blocks = -(-inputs // block_size)
    name = str(value.name)
    scales: list[Tensor] = []

    def load_packed() -> Tensor:
        packed, scale = quantize_blockwise(weight.load(), bits, block_size)
        scales[:] = [scale]  # written right after; small enough to keep until then
        return packed

    def load_scales() -> Tensor:
        return scales[0] if scales else quantize_blockwise(weight.load(), bits, block_size)[1]

    packed_shape = (outputs, blocks, block_size * bits // 8)
    packed = _initializer(graph, f"{name}.packed", packed_shape, "uint8", load_packed)
    scale = _initializer(graph, f"{name}.scales", (outputs, blocks), "float32", load_scales)
    for node in [use.node for use in value.uses()]:
        replacement = ir.node(
            "MatMulNBits",
            [node.inputs[0], packed, scale],
            {
                "K": inputs,
                "N": outputs,
                "bits": bits,
                "block_size": block_size,
                "accuracy_level": _INT8_ACTIVATIONS,
            },
            domain="com.microsoft",
            num_outputs=1,
            name=node.name,
        )
        _replace(graph, node, replacement)
    del graph.initializers[name]


def _cast(graph: ir.Graph, value: ir.Value, compute: str) -> None:
    """Convert an initializer before its use, or after a lookup where it is a table."""
    for node in [use.node for use in value.uses()]:
        if node.op_type == "Gather":
            output = node.outputs[0]
            cast = _cast_node(output, compute)
            for user, index in [
                (use.node, use.idx) for use in output.uses() if use.node is not cast
            ]:
                user.replace_input_with(index, cast.outputs[0])
            cast.outputs[0].shape, cast.outputs[0].dtype = output.shape, output.dtype
            output.dtype = value.dtype
            graph.insert_after(node, cast)
        else:
            cast = _cast_node(value, compute)
            for index, used in enumerate(node.inputs):
                if used is value:
                    node.replace_input_with(index, cast.outputs[0])
            graph.insert_before(node, cast)


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
