"""The exported graphs: their interface, what is in them, and what is not."""

import collections
import dataclasses

import onnx
import pytest
from onnx import TensorProto

from dia_export.trace import build_module, codec_spec, model_spec, trace
from dia_models.random_weights import TINY_DAC, TINY_DIA
from dia_ort.graphs import DECODER, ENCODER, GRAPH_NAMES, graph_spec
from dia_ort.manifest import read_manifest

LAYERS = TINY_DIA.decoder.num_layers
_NAMES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.INT8: "int8",
}
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float32"}


def load(folder, name):
    return onnx.load(folder / name, load_external_data=False)


def tensors(values):
    """(name, dtype, axes) as a declaration has them."""
    types = [value.type.tensor_type for value in values]
    return [
        (
            value.name,
            _NAMES[kind.elem_type],
            tuple(axis.dim_param or axis.dim_value for axis in kind.shape.dim),
        )
        for value, kind in zip(values, types, strict=True)
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_names_dtypes_and_axes_are_the_declared_ones(exported, dtype):
    folder = exported(dtype).folder
    manifest = read_manifest(folder)
    assert {info.graph for info in manifest.graphs} == set(GRAPH_NAMES)
    for info in manifest.graphs:
        graph, spec = load(folder, info.file).graph, manifest.spec(info)
        assert graph.name == info.graph
        assert tensors(graph.input) == [dataclasses.astuple(t) for t in spec.inputs]
        assert tensors(graph.output) == [dataclasses.astuple(t) for t in spec.outputs]


@pytest.mark.parametrize(
    ("dtype", "cache"), [("fp16", "float16"), ("bf16", "bfloat16"), ("int8", "int8")]
)
def test_caches(exported, dtype, cache):
    graph = load(exported(dtype).folder, "decoder.onnx").graph
    kinds = {name.partition(".")[0]: kind for name, kind, _ in tensors(graph.input)}
    assert kinds["past_key"] == kinds["past_value"] == cache
    assert kinds["cross_key"] == kinds["uncond_value"] == DTYPES[dtype]
    assert tensors(graph.output)[0][1] == "float32"  # the logits


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_nothing_of_the_tracing_stays(exported, name):
    """Stack traces would be larger than the graph, and tell where it was made."""
    folder = exported("fp32").folder
    for node in load(folder, f"{name}.onnx").graph.node:
        assert not node.metadata_props
        assert not node.doc_string
    content = (folder / f"{name}.onnx").read_bytes()
    for trace_of in (b"stack_trace", b"site-packages", b'File "', b".py", b"/dia_models"):
        assert trace_of not in content


def test_opsets_that_onnxruntime_knows(exported):
    for name in GRAPH_NAMES:
        model = load(exported("fp32").folder, f"{name}.onnx")
        opsets = {opset.domain: opset.version for opset in model.opset_import}
        assert opsets.pop("com.microsoft", 1) == 1
        assert opsets == {"": 21 if name.startswith("dac") else 23}
        assert not model.functions


@pytest.mark.parametrize("dtype", ["fp16", "int8", "int4"])
def test_webgpu_is_given_no_lengths_and_no_8_bit_cache(exported, dtype):
    graph = load(exported(dtype).folder, "decoder.webgpu.onnx").graph
    attention = [node for node in graph.node if node.op_type == "MultiHeadAttention"]
    assert attention
    for node in attention:
        assert node.input[4] == ""
        assert node.input[5] == attention[0].input[5]  # one bias for all layers
    assert sum(node.op_type == "GroupQueryAttention" for node in graph.node) == len(attention)
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    assert {types[n] for n in types if n.startswith("past_")} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cache_goes_through_one_attention_each_and_nothing_else(exported, dtype):
    """So that onnxruntime writes it in place: past and present may be the same memory."""
    graph = load(exported(dtype).folder, "decoder.onnx").graph
    users, makers = collections.defaultdict(list), {}
    for node in graph.node:
        for name in node.input:
            users[name].append(node.op_type)
        makers |= dict.fromkeys(node.output, node)
    counts = collections.Counter(node.op_type for node in graph.node)
    assert counts["GroupQueryAttention"] == counts["MultiHeadAttention"] == LAYERS
    assert counts["Attention"] == counts["Softmax"] == counts["ScatterElements"] == 0
    for layer in range(LAYERS):
        for kind in ("key", "value"):
            assert users[f"past_{kind}.{layer}"] == ["GroupQueryAttention"]
            assert users[f"cross_{kind}.{layer}"] == ["MultiHeadAttention"]
            maker = makers[f"present_{kind}.{layer}"]
            assert maker.op_type == "GroupQueryAttention"
            assert f"past_{kind}.{layer}" in maker.input


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_layer_in_half_precision_is_few_nodes(exported, dtype):
    """What a GPU launches; casts of weights are done when the graph is loaded."""
    graph = load(exported(dtype).folder, "decoder.onnx").graph
    weights = {initializer.name for initializer in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output if name}
    counts = collections.Counter(
        node.op_type
        for node in graph.node
        if node.op_type != "Cast" or node.input[0] not in weights
    )
    layer = collections.Counter(
        MatMul=6,
        SkipSimplifiedLayerNormalization=3,
        GroupQueryAttention=1,
        MultiHeadAttention=1,
        Slice=1,
        Split=1,
        Sigmoid=1,
    )
    once = {"MatMul": 1, "Split": 1}  # the logits; the unconditional values
    assert {op: counts[op] for op in layer} == {
        op: LAYERS * layer[op] + once.get(op, 0) for op in layer
    }
    assert counts["Cast"] == 5  # around the embeddings' sum and the first norm, and of the logits
    assert counts["Concat"] <= LAYERS + 3
    # The kernel that onnxruntime has for x * sigmoid(x) computes in half precision.
    products = [node for node in graph.node if node.op_type == "Mul"]
    for x, y in (node.input for node in products):
        for gate, other in ((x, y), (y, x)):
            maker = makers.get(gate)
            assert maker is None or maker.op_type != "Sigmoid" or maker.input[0] != other


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_quantised_graphs_have_no_float_matrix_left(exported, dtype):
    for name in (ENCODER, DECODER):
        graph = load(exported(dtype).folder, f"{name}.onnx").graph
        counts = collections.Counter(node.op_type for node in graph.node)
        assert counts["MatMul"] == 0
        assert counts["GatherBlockQuantized"] == 1
        weights = {i.name for i in graph.initializer if len(i.dims) > 1}
        assert not any(weights & set(n.input) for n in graph.node if n.op_type == "Gather")
    products = 6 * LAYERS  # qkv, o, q, o, gate_up, down
    in_blocks = products if dtype == "int4" else 0
    assert counts["MatMulNBits"] == in_blocks
    assert counts["MatMulIntegerToFloat"] == products - in_blocks + 1  # the logits


def test_activations_have_a_scale_for_each_row(exported):
    """One for all would let a request's neighbours in the batch change what it says."""
    graph = load(exported("int8").folder, "decoder.onnx").graph
    counts = collections.Counter(node.op_type for node in graph.node)
    assert counts["DynamicQuantizeMatMul"] == counts["DynamicQuantizeLinear"] == 0
    for node in graph.node:
        if node.op_type == "ReduceMax":
            assert node.input[1] == "activation.axis"
    axis = next(i for i in graph.initializer if i.name == "activation.axis")
    assert onnx.numpy_helper.to_array(axis).tolist() == [-1]
    assert counts["ReduceMax"] == counts["MatMulIntegerToFloat"]


@pytest.mark.parametrize("name", [ENCODER, DECODER])
def test_the_first_release_rotates_in_the_cross_attention(exported, name):
    """The keys of every layer in the encoder's graph, the queries in the decoder's."""
    config = dataclasses.replace(TINY_DIA, release="first")
    spec = graph_spec(name, model_spec(config), codec_spec(TINY_DAC), "float32")
    model = trace(spec, build_module(name, config, TINY_DAC), hop_length=TINY_DAC.hop_length)
    first = collections.Counter(node.op_type for node in model.graph)
    later = collections.Counter(
        node.op_type for node in load(exported("fp32").folder, f"{name}.onnx").graph.node
    )
    assert first["RotaryEmbedding"] - later["RotaryEmbedding"] == LAYERS
    for operator in ("GroupQueryAttention", "MultiHeadAttention"):
        assert first[operator] == later[operator]
    if name == DECODER:
        assert first["GroupQueryAttention"] == first["MultiHeadAttention"] == LAYERS
        assert later["RotaryEmbedding"] == 0  # GroupQueryAttention does it
