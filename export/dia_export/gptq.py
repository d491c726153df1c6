"""GPTQ: rounding a matrix so that what it gives for its usual inputs changes least.

Rounding each weight to its nearest level is best for the weights, not for the products: inputs are
correlated, so the error that one weight makes can be made good by those not rounded yet. Frantar et
al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022).
"""

import torch
from torch import Tensor

from dia_export.quantize import block_scales, pack_blocks, round_to_levels

_DAMPING = 0.5
"""Added to the moments' diagonal, as a share of its median, which a few large inputs do not move:
trust in what was seen has limits. On the trained demo's speech, 0.5 left 0.103 nats of divergence,
and 1 left 0.109; with fewer samples than the widest layer has inputs, both left 0.120."""


def gptq(weight: Tensor, moments: Tensor, bits: int, block_size: int) -> tuple[Tensor, Tensor]:
    """Quantise a matrix as :func:`dia_export.quantize.quantize_blockwise` does, but by its inputs.

    Args:
        weight: (inputs, outputs), any float dtype.
        moments: The sum of ``outer(x, x)`` over inputs x that are typical, float32 of shape
            (inputs, inputs).
        bits: 4 or 8.
        block_size: Inputs per scale, a power of two of at least 16.

    Returns:
        Levels and scales, of the same shapes and dtypes.
    """
    inputs = len(weight)
    shares = _error_shares(moments)
    rest = weight.float().clone()
    levels = torch.empty_like(rest)
    scales = []
    for start in range(0, inputs, block_size):
        stop = min(start + block_size, inputs)
        block = rest[start:stop]
        scale = block_scales(block.T, bits).squeeze(-1)
        scales.append(scale)
        errors = torch.empty_like(block)
        within = shares[start:stop, start:stop]
        for i, row in enumerate(block):
            levels[start + i] = round_to_levels(row, scale, bits)
            errors[i] = (row - levels[start + i] * scale) / within[i, i]
            block[i + 1 :].addr_(within[i, i + 1 :], errors[i], alpha=-1)
        rest[stop:].addmm_(shares[start:stop, stop:].T, errors, alpha=-1)
    return pack_blocks(levels, bits, block_size), torch.stack(scales, dim=1)


def _error_shares(moments: Tensor) -> Tensor:
    """How a row's error goes to the rows below it: the inverse moments' upper Cholesky factor."""
    # Factorised from the last input to the first, so that only a triangle has to be inverted.
    damped = moments.flip(0, 1)
    typical = float(damped.diagonal().median()) or float(damped.diagonal().mean()) or 1.0
    damped.diagonal().add_(typical * _DAMPING)
    factor = torch.linalg.cholesky(damped).flip(0, 1)
    shares: Tensor = torch.linalg.solve_triangular(factor, torch.eye(len(factor)), upper=True)
    return shares
