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


def gather() -> onnx.GraphProto:
    """Rows of two caches, those of the second counted after those of the first."""
    half, row = TensorProto.FLOAT16, ["heads", "positions", "width"]
    return helper.make_graph(
        [
            helper.make_node("Concat", ["first", "second"], ["both"], axis=0),
            helper.make_node("Gather", ["both", "index"], ["rows"], axis=0),
        ],
        "gather",
        [
            helper.make_tensor_value_info("first", half, ["one", *row]),
            helper.make_tensor_value_info("second", half, ["other", *row]),
            helper.make_tensor_value_info("index", TensorProto.INT64, ["count"]),
        ],
        [helper.make_tensor_value_info("rows", half, ["count", *row])],
    )


def choose() -> onnx.GraphProto:
    """What dia_ort.sampling.choose does, for logits that are on a device.

    The conditional rows come in reverse, as the decoder has them. All that goes back to the host is
    one tensor, (texts, channels, 3 * count): guided logits, NaN in a row that is not finite; the
    conditional ones; and tokens, which float32 holds exactly.
    """
    logits = ["texts", "channels", "vocab"]
    nodes = (
        ("Slice", ["cond_reversed", "last", "before_first", "rows", "backwards"], ["cond"]),
        ("Sub", ["cond", "uncond"], ["difference"]),
        ("Mul", ["difference", "scale"], ["scaled"]),
        ("Add", ["scaled", "cond"], ["mixed"]),
        ("Equal", ["scale", "zero"], ["unguided"]),
        ("Where", ["unguided", "cond", "mixed"], ["guided"]),
        ("Sub", ["guided", "guided"], ["zeros"]),  # or NaN
        ("ReduceSum", ["zeros", "not_rows"], ["check"]),
        ("IsNaN", ["check"], ["spoilt"]),
        ("Where", ["spoilt", "zero", "guided"], ["sound"]),
        ("Mul", ["sound", "factor"], ["factored"]),
        ("TopK", ["factored", "count"], ["best", "tokens"]),
        ("GatherElements", ["cond", "tokens"], ["best_cond"], {"axis": -1}),
        ("Add", ["best", "check"], ["best_checked"]),
        ("Cast", ["tokens"], ["numbers"], {"to": TensorProto.FLOAT}),
        ("Concat", ["best_checked", "best_cond", "numbers"], ["candidates"], {"axis": -1}),
    )
    constants = {
        "last": np.array([-1]),
        "before_first": np.array([np.iinfo(np.int64).min]),
        "rows": np.array([0]),
        "backwards": np.array([-1]),
        "not_rows": np.array([1, 2]),
        "zero": np.float32(0),
    }
    return helper.make_graph(
        [
            helper.make_node(operator, inputs, outputs, **dict(*attributes))
            for operator, inputs, outputs, *attributes in nodes
        ],
        "choose",
        [
            helper.make_tensor_value_info("cond_reversed", TensorProto.FLOAT, logits),
            helper.make_tensor_value_info("uncond", TensorProto.FLOAT, logits),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, ["texts", 1, 1]),
            helper.make_tensor_value_info("factor", TensorProto.FLOAT, [1, "channels", "vocab"]),
            helper.make_tensor_value_info("count", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info(
                "candidates", TensorProto.FLOAT, ["texts", "channels", "packed"]
            )
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )


def main() -> None:
    for graph in (overflow_probe(), move(), gather(), choose()):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(model)
        (FOLDER / f"{graph.name}.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
