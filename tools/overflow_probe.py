"""Make runtime/dia_ort/overflow_probe.onnx: a product of 8-bit numbers that some CPUs get wrong.

x86 without VNNI adds pairs of u8 x s8 products in 16 bits, which saturate; the runtime runs the
probe to tell such a CPU, and takes onnxruntime's slower but exact kernels there.

    python tools/overflow_probe.py
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PATH = Path(__file__).parents[1] / "runtime" / "dia_ort" / "overflow_probe.onnx"
INPUTS, OUTPUTS = 64, 16


def main() -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight"], ["y"])],
        "overflow_probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, OUTPUTS])],
        [numpy_helper.from_array(np.full((INPUTS, OUTPUTS), 127, np.int8), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    PATH.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
