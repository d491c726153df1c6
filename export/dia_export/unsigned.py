"""Products in whole numbers for x86 without VNNI: the same graph, with uint8 weights.

There, onnxruntime's products of uint8 and int8 add pairs in 16 bits, which saturate; those of uint8
and uint8 do not. It can convert the weights itself, but that takes seconds, and memory for good. So
it is given a graph that wants uint8, and the runtime converts (:mod:`dia_ort.levels`).
"""

import onnx_ir as ir

from dia_ort.manifest import Levels

_PRODUCT = "MatMulIntegerToFloat"
_ZERO = "activation.zero"  # 128, for the activations, which are uint8 in any case


def to_unsigned(model: ir.Model) -> tuple[Levels, ...]:
    """Let the products of a graph take uint8 weights with a zero point of 128.

    Args:
        model: As read from a file, with its weights in another one; changed in place.

    Returns:
        The weights in question, which are still int8 in that file; none: it has no such products.
    """
    levels = {}
    for node in list(model.graph):
        if node.op_type != _PRODUCT:
            continue
        weight = node.inputs[1]
        if weight is None or not isinstance(weight.const_value, ir.ExternalTensor):
            raise TypeError(f"{node.name}: its weights are not in a file of their own")
        node.resize_inputs(6)
        node.replace_input_with(5, model.graph.initializers[_ZERO])
        if weight.name in levels:
            continue
        signed, name = weight.const_value, str(weight.name)
        shape = tuple(signed.shape.numpy())
        levels[name] = Levels(name=name, shape=shape, offset=signed.offset or 0)
        weight.type = ir.TensorType(ir.DataType.UINT8)
        weight.const_value = ir.ExternalTensor(
            *(signed.location, signed.offset, signed.length, ir.DataType.UINT8),
            shape=signed.shape,
            name=name,
            base_dir=signed.base_dir,
        )
    return tuple(levels.values())
