"""What CoreML takes of the exported graphs, by onnxruntime's own checker and by its sources."""

import collections

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto
from onnxruntime.tools.mobile_helpers import usability_checker
from onnxruntime.tools.onnx_model_utils import ModelProtoWithShapeInfo

from dia_ort.artifacts import find_artifact
from dia_ort.coreml import LARGEST_AXIS, static_graph, static_sizes
from dia_ort.graphs import DAC_DECODER, DAC_ENCODER, DECODER, ENCODER
from dia_ort.providers import session_options

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
CASTS = FLOATS | {TensorProto.INT32, TensorProto.INT64}
PARAMETERS = {  # inputs that must be constants
    **dict.fromkeys(["Clip", "Slice", "Split", "Squeeze", "Unsqueeze", "Reshape"], slice(1, None)),
    **dict.fromkeys(["ReduceMax", "ReduceMean", "ReduceSum"], slice(1, None)),
    **dict.fromkeys(["Conv", "ConvTranspose"], slice(1, None)),
}
WHOLE = {  # dtype, attention, file
    ("fp32", "standard", "encoder.onnx"),
    ("fp32", "standard", "decoder.onnx"),
    ("fp16", "standard", "encoder.onnx"),
    ("fp16", "standard", "decoder.onnx"),
    ("fp16", "standard", "encoder.float32.onnx"),
    ("fp16", "standard", "decoder.float32.onnx"),
    ("fp16", "standard", "dac_decoder.onnx"),
    ("fp16", "standard", "dac_encoder.onnx"),
    ("int4", "fused", "dac_decoder.onnx"),
    ("int4", "fused", "dac_encoder.onnx"),
}
# What is left of the others: onnxruntime's own operators, and the lookup that they go with. The
# lists are of the tiny model, which has two layers on either side.
FUSED_ENCODER = {
    "Gather": 1,
    "RMSNormalization": 5,
    "com.microsoft.MultiHeadAttention": 2,
    "com.microsoft.RotaryEmbedding": 4,
}
FUSED_DECODER = {
    "Expand": 1,
    "Gather": 1,
    "RMSNormalization": 7,
    "com.microsoft.GroupQueryAttention": 2,
    "com.microsoft.MultiHeadAttention": 2,
}
LEFT = {
    ("fp32", "fused", "encoder.onnx"): FUSED_ENCODER,
    ("fp32", "fused", "decoder.onnx"): FUSED_DECODER,
}


CODES = dict.fromkeys(("before", "codes", "after"), 1024)
TOPS = {"tokens": 200, "seqlens_k": 40, "text_lengths": 12, **CODES}
"""What the whole numbers in the graphs' inputs stay below."""


@pytest.fixture(scope="module")
def static(exported, tmp_path_factory):
    """The static variant of a graph, with the shapes of all its values."""
    cache = tmp_path_factory.mktemp("cache")

    def load(dtype, attention, file):
        artifact = find_artifact(exported(dtype, attention).folder)
        graph = file.partition(".")[0]
        path = static_graph(artifact.folder / file, static_sizes(graph, artifact.manifest), cache)
        return ModelProtoWithShapeInfo(path).model_with_shape_info

    return load


def check(model):
    return usability_checker.check_coreml_partitions(
        model,
        require_fixed_input_sizes=True,
        config_filename="coreml_supported_mlprogram_ops.md",
    )


@pytest.mark.parametrize("graph", sorted(WHOLE), ids="-".join)
def test_graphs_that_it_takes_whole(static, graph):
    info = check(static(*graph))
    assert info.num_nodes > 100
    assert info.num_supported_nodes == info.num_nodes
    assert info.num_partitions == 1
    assert not info.unsupported_ops
    assert not info.ops_with_unsupported_rank


@pytest.mark.parametrize("graph", sorted(LEFT), ids="-".join)
def test_graphs_that_it_would_cut_to_pieces(static, graph):
    """So they run on the CPU provider; see ``dia_ort.coreml.placement``."""
    model = static(*graph)
    info = check(model)
    counts = collections.Counter(
        ".".join(filter(None, (n.domain, n.op_type))) for n in model.graph.node
    )
    left = {name.replace(":", ".").removeprefix("ai.onnx.") for name in info.unsupported_ops}
    assert {name: counts[name] for name in left} == LEFT[graph]
    assert info.num_partitions > 5


@pytest.mark.parametrize("graph", sorted(WHOLE), ids="-".join)
def test_what_the_checker_does_not_check(static, graph):
    """The conditions in the sources of onnxruntime's CoreML provider, for operators used here."""
    model = static(*graph).graph
    constants = {initializer.name for initializer in model.initializer}
    types = {i.name: i.data_type for i in model.initializer}
    shapes = {i.name: list(i.dims) for i in model.initializer}
    for value in (*model.input, *model.output, *model.value_info):
        types[value.name] = value.type.tensor_type.elem_type
        shapes[value.name] = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    assert all(0 not in shape for shape in shapes.values())
    for node in model.node:
        first, operator = node.input[0], node.op_type
        if operator == "Cast":
            assert {types[first], types[node.output[0]]} <= CASTS
        else:  # arithmetic and movement alike: of floats, in any number
            assert types[first] in FLOATS, node
        if operator == "Pow":
            assert {types[name] for name in node.input} == {TensorProto.FLOAT}
        if operator in PARAMETERS:
            assert constants >= set(filter(None, node.input[PARAMETERS[operator]])), node
        if operator in {"Conv", "ConvTranspose"}:
            assert max(shapes[first]) <= LARGEST_AXIS
            pads = next(list(a.ints) for a in node.attribute if a.name == "pads")
            assert len(set(pads)) == 1


@pytest.mark.parametrize("graph", [ENCODER, DECODER, DAC_DECODER, DAC_ENCODER])
def test_static_variants_compute_the_same(exported, tmp_path, graph):
    """At their full sizes, where the lengths say how much is real."""
    artifact = find_artifact(exported("fp32", "standard").folder)
    info = artifact.manifest.find(graph, "float32")
    sizes = static_sizes(graph, artifact.manifest) | {"text": 12, "cache": 40}
    random, feed = np.random.default_rng(0), {}
    for tensor in artifact.manifest.spec(info).inputs:
        shape = [sizes.get(axis, axis) for axis in tensor.axes]
        feed[tensor.name] = random.normal(size=shape).astype(tensor.dtype)
    for name, top in TOPS.items():
        if name in feed:
            feed[name] = random.integers(1, top, feed[name].shape).astype(feed[name].dtype)
    path = artifact.folder / info.file
    outputs = []
    for file in (path, static_graph(path, sizes, tmp_path)):
        session = ort.InferenceSession(
            str(file), session_options(), providers=["CPUExecutionProvider"]
        )
        outputs.append(session.run(None, feed))
    for have, want in zip(*reversed(outputs), strict=True):
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-5)
