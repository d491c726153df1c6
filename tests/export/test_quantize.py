"""Block-wise quantisation, and its layout against the operators that read it."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dia_export.quantize import (
    _COLUMNS,
    dequantize_blockwise,
    quantize_blockwise,
    quantize_columns,
)
from dia_export.weights import attach_weights
from dia_models.checkpoint import Weight
from dia_ort.manifest import Blocks
from dia_ort.providers import session_options

BITS = [4, 8]


def random_weight(inputs, outputs, seed=0):
    return torch.randn(inputs, outputs, generator=torch.Generator().manual_seed(seed))


def run_node(operator, operands, feed, **attributes):
    """The output of one com.microsoft node; tensors among its operands are its weights."""
    weights = {name: value for name, value in operands.items() if isinstance(value, torch.Tensor)}
    graph = helper.make_graph(
        [helper.make_node(operator, list(operands), ["y"], domain="com.microsoft", **attributes)],
        operator,
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), None)
            for name, x in feed.items()
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("inputs", [128, 100, 7])
@pytest.mark.parametrize("block_size", [16, 32, 128])
def test_shapes_and_dtypes(bits, inputs, block_size):
    packed, scales = quantize_blockwise(random_weight(inputs, 5), bits, block_size)
    blocks = -(-inputs // block_size)
    assert (packed.shape, packed.dtype) == ((5, blocks, block_size * bits // 8), torch.uint8)
    assert (scales.shape, scales.dtype) == ((5, blocks), torch.float32)
    assert dequantize_blockwise(packed, scales, bits, inputs).shape == (inputs, 5)


@pytest.mark.parametrize("inputs", [128, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_error_of_8_bits_is_half_a_level(inputs, dtype):
    """A whole level only at the other end: there are 128 levels below 0, and 127 above.

    The entry of largest magnitude is kept exactly, whatever its sign.
    """
    weight, block = random_weight(inputs, 300).to(dtype), 32
    packed, scales = quantize_blockwise(weight, 8, block)
    restored = dequantize_blockwise(packed, scales, 8, inputs)
    step = scales.abs().repeat_interleave(block, dim=1)[:, :inputs].T
    levels = weight.float() / scales.repeat_interleave(block, dim=1)[:, :inputs].T
    error = (weight.float() - restored).abs() / step
    assert error[levels <= 127.5].max() <= 0.5 + 1e-4
    assert error.max() <= 1 + 1e-4
    largest = torch.zeros_like(weight, dtype=torch.bool)
    for start in range(0, inputs, block):
        part = weight[start : start + block].float().abs()
        largest[start : start + block] = part == part.amax(0)
    assert (error[largest & (levels < 0)]).max() < 1e-4


@pytest.mark.parametrize("inputs", [128, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_scales_of_4_bits_are_chosen_by_their_error(inputs, dtype):
    """In no block is it more than where the largest entry just fits, and less in all."""
    weight, block = random_weight(inputs, 300).to(dtype), 32
    packed, scales = quantize_blockwise(weight, 4, block)
    restored = dequantize_blockwise(packed, scales, 4, inputs)
    chosen, fitting = [], []
    for start in range(0, inputs, block):
        part = weight[start : start + block].float()
        chosen.append((part - restored[start : start + block]).square().sum(0))
        scale = part.gather(0, part.abs().argmax(0, keepdim=True)) / -8
        fitting.append((part - (part / scale).round().clamp(-8, 7) * scale).square().sum(0))
    chosen, fitting = torch.stack(chosen), torch.stack(fitting)
    assert (chosen <= fitting * (1 + 1e-4)).all()
    assert chosen.mean() < 0.95 * fitting.mean()


@pytest.mark.parametrize("bits", BITS)
def test_levels_are_exact(bits):
    """A matrix that lies on the levels comes back unchanged."""
    zero = 2 ** (bits - 1)
    levels = torch.arange(2 * zero).float() - zero
    weight = torch.stack([levels / 8, -levels / 64, levels.flip(0) * 4], dim=1)
    packed, scales = quantize_blockwise(weight, bits, 2 * zero)
    assert torch.equal(dequantize_blockwise(packed, scales, bits, 2 * zero), weight)
    assert scales.flatten().tolist() == [1 / 8, -1 / 64, 4]


@pytest.mark.parametrize("bits", BITS)
def test_blocks_of_zeros(bits):
    weight = random_weight(96, 4)
    weight[32:64] = 0
    weight[:, 2] = 0
    packed, scales = quantize_blockwise(weight, bits, 32)
    restored = dequantize_blockwise(packed, scales, bits, 96)
    assert restored.isfinite().all()
    assert (restored[32:64] == 0).all()
    assert (restored[:, 2] == 0).all()
    assert (scales[:, 1] == 0).all()
    assert (restored[:32, :2] != 0).any()


def test_columns_are_independent_of_how_they_are_split():
    weight = random_weight(32, _COLUMNS + 3)
    packed, scales = quantize_blockwise(weight, 4, 32)
    for column in (0, _COLUMNS - 1, _COLUMNS, _COLUMNS + 2):
        alone = quantize_blockwise(weight[:, column : column + 1], 4, 32)
        assert torch.equal(packed[column], alone[0][0])
        assert torch.equal(scales[column], alone[1][0])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("inputs", "block_size"), [(128, 32), (100, 32), (200, 128), (20, 16)])
def test_matmulnbits_multiplies_with_the_dequantised_matrix(bits, inputs, block_size):
    outputs = 12
    weight = random_weight(inputs, outputs)
    packed, scales = quantize_blockwise(weight, bits, block_size)
    restored = dequantize_blockwise(packed, scales, bits, inputs).numpy()
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block_size}
    operands = {"x": None, "packed": packed, "scales": scales}

    # Row by row of the identity, the operator says itself what matrix it reads.
    identity = np.eye(inputs, dtype=np.float32)
    matrix = run_node("MatMulNBits", operands, {"x": identity}, **attributes)
    assert np.abs(matrix - restored).max() < 1e-6

    x = np.random.default_rng(0).normal(size=(2, 3, inputs)).astype(np.float32)
    product = run_node("MatMulNBits", operands, {"x": x}, **attributes)
    assert np.abs(product - x @ restored).max() < 1e-4

    # With activations of 8 bits, as exported graphs have it, only nearly so.
    attributes["accuracy_level"] = 4
    product = run_node("MatMulNBits", operands, {"x": x}, **attributes)
    assert np.sqrt(np.mean((product - x @ restored) ** 2)) < 0.02 * np.std(x @ restored)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("width", "block_size"), [(64, 32), (48, 32), (16, 16)])
def test_gatherblockquantized_looks_up_the_dequantised_rows(bits, width, block_size):
    """Rows of a table; cut, not padded, where the width is no multiple of the block."""
    table = random_weight(10, width)
    packed, scales = quantize_blockwise(table.T, bits, block_size)
    restored = dequantize_blockwise(packed, scales, bits, width).T.numpy()
    index = np.array([[3, 0, 9], [9, 9, 1]], np.int64)
    found = run_node(
        "GatherBlockQuantized",
        {
            "packed": packed.flatten(1)[:, : width * bits // 8].contiguous(),
            "index": None,
            "scales": scales,
        },
        {"index": index},
        gather_axis=0,
        quantize_axis=1,
        bits=bits,
        block_size=block_size,
    )
    assert np.array_equal(found, restored[index])


def test_columns():
    """One scale for each output; the largest entry of each is kept exactly."""
    weight = random_weight(100, 2 * _COLUMNS + 5)
    weight[:, 3] = 0
    levels, scales = quantize_columns(weight)
    assert (levels.dtype, levels.shape) == (torch.int8, weight.shape)
    assert (scales.dtype, scales.shape) == (torch.float32, weight.shape[1:])
    error = (weight - levels * scales).abs()
    assert (error <= scales * (0.5 + 1e-4)).all()
    assert levels.abs().amax(0).tolist() == [0 if n == 3 else 127 for n in range(weight.shape[1])]
    assert not levels[:, 3].any()


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_whole_number_products(rows):
    """What a quantised matrix becomes computes x @ weight, each row as it would be alone."""
    weight = random_weight(256, 80)
    linear = ir.Value(name="w", shape=ir.Shape(weight.shape), type=ir.TensorType(ir.DataType.FLOAT))
    x = ir.Value(name="x", shape=ir.Shape(["rows", 256]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("MatMul", [x, linear], name="product")
    node.outputs[0].name = "y"
    node.outputs[0].type = x.type
    graph = ir.Graph(
        [x],
        node.outputs,
        nodes=[node],
        initializers=[linear],
        opset_imports={"": 23},
        name="decoder",
    )
    attach_weights(
        ir.Model(graph, ir_version=10),
        {"w": Weight(weight.shape, torch.float32, lambda: weight)},
        storage="float32",
        compute="float32",
        quantization={"decoder": Blocks(bits=8, block_size=None)},
    )
    graph.opset_imports["com.microsoft"] = 1
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    options = session_options()  # on some CPUs other kernels would overflow
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = random_weight(rows, 256, seed=1).numpy()
    inputs[0] *= 1e4
    if rows > 1:
        inputs[1] = 0
    outputs = session.run(None, {"x": inputs})[0]
    want = inputs @ weight.numpy()
    error = np.linalg.norm(outputs - want, axis=1)
    assert (error <= 0.02 * np.linalg.norm(want, axis=1)).all()
    alone = np.concatenate([session.run(None, {"x": inputs[i : i + 1]})[0] for i in range(rows)])
    np.testing.assert_array_equal(outputs, alone)
