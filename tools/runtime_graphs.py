"""Make the small graphs that the runtime has for itself, beside its modules.

python tools/runtime_graphs.py
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parents[1] / "runtime" / "dia_ort"


def overflow_probe() -> onnx.GraphProto:
    """A product of 8-bit numbers that some CPUs get wrong.

    x86 without VNNI adds pairs of u8 x s8 products in 16 bits, which saturate; the runtime runs the
    probe to tell such a CPU, and takes onnxruntime's slower but exact kernels there.
    """
    inputs, outputs = 64, 16
    return helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight"], ["y"])],
        "overflow_probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, outputs])],
        [numpy_helper.from_array(np.full((inputs, outputs), 127, np.int8), "weight")],
    )


def move() -> onnx.GraphProto:
    """The beginning of each row, and zeros after it: every copy that a device's buffers need."""
    return helper.make_graph(
        [
            helper.make_node("Slice", ["source", "first", "kept", "axis"], ["beginning"]),
            helper.make_node("Pad", ["beginning", "pads"], ["target"]),
        ],
        "move",
        [
            helper.make_tensor_value_info("source", TensorProto.FLOAT, ["rows", "words"]),
            helper.make_tensor_value_info("kept", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("pads", TensorProto.INT64, [4]),
        ],
        [helper.make_tensor_value_info("target", TensorProto.FLOAT, ["rows", "target_words"])],
        [
            numpy_helper.from_array(np.array([0]), "first"),
            numpy_helper.from_array(np.array([1]), "axis"),
        ],
    )


def main() -> None:
    for graph in (overflow_probe(), move()):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(model)
        (FOLDER / f"{graph.name}.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
