"""Weight quantisation: in blocks, as MatMulNBits has it, or with one scale per output."""

import torch
from torch import Tensor

# Columns handled at once: bounds the float32 temporaries to tens of MB on the largest matrix.
_COLUMNS = 1024


def quantize_blockwise(weight: Tensor, bits: int, block_size: int) -> tuple[Tensor, Tensor]:
    """Quantise a matrix symmetrically, one scale per block of inputs of each output.

    The scale maps the entry of largest magnitude to the most negative level, -2**(bits - 1), so
    that no level is unused.

    Args:
        weight: (inputs, outputs), any float dtype.
        bits: 4 or 8.
        block_size: Inputs per scale, a power of two of at least 16.

    Returns:
        The levels, offset by 2**(bits - 1), as uint8 of shape (outputs, blocks, block_size * bits
        / 8), low nibble first for 4 bits; and the scales, float32 of shape (outputs, blocks).
    """
    parts = [_quantize(part, bits, block_size) for part in weight.split(_COLUMNS, dim=1)]
    packed, scales = zip(*parts, strict=True)
    return torch.cat(packed), torch.cat(scales)


def _quantize(weight: Tensor, bits: int, block_size: int) -> tuple[Tensor, Tensor]:
    zero = 2 ** (bits - 1)
    inputs = weight.shape[0]
    padding = -inputs % block_size
    columns = torch.nn.functional.pad(weight.T.float(), (0, padding))
    blocks = columns.unflatten(1, (-1, block_size))
    extreme = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scales = extreme / -zero
    inverse = torch.where(scales == 0, 0.0, 1.0 / scales)
    levels = (blocks * inverse).round_().add_(zero).clamp_(0, 2 * zero - 1).to(torch.uint8)
    if bits == 4:
        levels = levels[..., 0::2] | (levels[..., 1::2] << 4)
    return levels.contiguous(), scales.squeeze(-1).contiguous()


def quantize_columns(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise a matrix symmetrically to 8 bits, one scale for each output.

    Args:
        weight: (inputs, outputs), any float dtype.

    Returns:
        The levels, int8 of shape (inputs, outputs) from -127 to 127; and the scales, float32 of
        shape (outputs,).
    """
    parts = []
    for part in weight.split(_COLUMNS, dim=1):
        columns = part.float()
        scales = columns.abs().amax(0) / 127
        inverse = torch.where(scales == 0, 0.0, 1.0 / scales)
        parts.append(((columns * inverse).round_().to(torch.int8), scales))
    levels, scales = zip(*parts, strict=True)
    return torch.cat(levels, dim=1), torch.cat(scales)


def dequantize_blockwise(packed: Tensor, scales: Tensor, bits: int, inputs: int) -> Tensor:
    """The matrix (inputs, outputs), float32, that MatMulNBits multiplies with."""
    levels = packed
    if bits == 4:
        levels = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
    blocks: Tensor = (levels.float() - 2 ** (bits - 1)) * scales.unsqueeze(-1)
    return blocks.flatten(1)[:, :inputs].T.contiguous()
