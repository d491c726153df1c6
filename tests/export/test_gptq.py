"""GPTQ, against its definition and against rounding to the nearest."""

import pytest
import torch

from dia_export.gptq import _DAMPING, gptq
from dia_export.quantize import (
    block_scales,
    dequantize_blockwise,
    quantize_blockwise,
    round_to_levels,
)

BITS = [4, 8]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated(count, inputs, seed):
    """Inputs that are mixtures of half as many values, and a little noise."""
    return random(count, inputs // 2, seed=seed) @ random(inputs // 2, inputs) + random(
        count, inputs, seed=seed + 1
    )


def by_definition(weight, moments, bits, block_size):
    """One input after the other, with the inverse moments of those that are left, in float64."""
    inputs = len(weight)
    damping = _DAMPING * moments.diagonal().median() * torch.eye(inputs)
    inverse = torch.linalg.inv((moments + damping).double())
    rest, restored = weight.double().clone(), torch.zeros_like(weight)
    for i in range(inputs):
        if i % block_size == 0:
            block = rest[i : i + block_size].float().T
            scale = block_scales(block, bits).squeeze(-1)
        restored[i] = round_to_levels(rest[i].float(), scale, bits) * scale
        error = (rest[i] - restored[i]) / inverse[i, i]
        rest[i:] -= inverse[i:, i, None] * error
        inverse -= torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return restored


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("inputs", "block_size"), [(64, 16), (64, 64), (100, 32)])
def test_it_is_what_its_definition_says(bits, inputs, block_size):
    weight, x = random(inputs, 40), correlated(500, inputs, seed=1)
    packed, scales = gptq(weight, x.T @ x, bits, block_size)
    restored = dequantize_blockwise(packed, scales, bits, inputs)
    wanted = by_definition(weight, x.T @ x, bits, block_size)
    step = scales.abs().repeat_interleave(block_size, dim=1)[:, :inputs].T
    same = (restored - wanted).abs() < step / 2
    assert same.float().mean() > 0.99  # a near-tie may fall either way, and moves what follows


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("inputs", [128, 100])
def test_products_with_other_inputs_of_the_kind_are_closer(bits, inputs):
    weight, x = random(inputs, 50), correlated(1000, inputs, seed=1)
    other = correlated(1000, inputs, seed=5)

    def error(quantized):
        restored = dequantize_blockwise(*quantized, bits, inputs)
        return (other @ (restored - weight)).norm() / (other @ weight).norm()

    nearest = error(quantize_blockwise(weight, bits, 32))
    assert error(gptq(weight, x.T @ x, bits, 32)) < 0.8 * nearest


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    "moments",
    [torch.eye(100) * 3, torch.zeros(100, 100), torch.diag(torch.arange(100) // 90 * 1.0)],
    ids=["all alike", "never any input", "few inputs ever"],
)
def test_without_correlations_it_rounds_to_the_nearest(bits, moments):
    weight = random(100, 7)
    packed, scales = gptq(weight, moments, bits, 32)
    levels, steps = quantize_blockwise(weight, bits, 32)
    assert torch.equal(packed, levels)
    torch.testing.assert_close(scales, steps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_weight_is_left_as_it_is(dtype):
    weight, x = random(64, 5).to(dtype), correlated(200, 64, seed=1)
    before = weight.clone()
    packed, scales = gptq(weight, x.T @ x, 4, 32)
    assert torch.equal(weight, before)
    assert (packed.dtype, scales.dtype) == (torch.uint8, torch.float32)
