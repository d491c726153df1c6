"""Weight quantisation: in blocks, as MatMulNBits has it, or with one scale per output."""

import torch
from torch import Tensor, nn

# Columns handled at once: bounds the float32 temporaries to tens of MB on the largest matrix.
_COLUMNS = 1024

# Of the scale at which a block's largest entry just fits. 4 bits have so few levels that cutting
# the largest entries off may pay; with 8 bits nothing is gained.
_SCALE_FACTORS = (1.0, 0.92, 0.84, 0.76, 0.68)


def quantize_blockwise(weight: Tensor, bits: int, block_size: int) -> tuple[Tensor, Tensor]:
    """Quantise a matrix symmetrically, one scale per block of inputs of each output.

    Every entry goes to the nearest level; :mod:`dia_export.gptq` does better where the inputs are
    known.

    Args:
        weight: (inputs, outputs), any float dtype.
        bits: 4 or 8.
        block_size: Inputs per scale, a power of two of at least 16.

    Returns:
        The levels, as :func:`pack_blocks` packs them, and the scales, float32 of shape (outputs,
        blocks).
    """
    packed, scales = [], []
    for part in weight.split(_COLUMNS, dim=1):
        blocks = _blocks(part.float(), block_size)
        found = block_scales(blocks, bits)
        packed.append(_pack(round_to_levels(blocks, found, bits), bits))
        scales.append(found.squeeze(-1))
    return torch.cat(packed), torch.cat(scales)


def block_scales(blocks: Tensor, bits: int) -> Tensor:
    """What one level of each block stands for.

    The entry of largest magnitude goes to the most negative level, -2**(bits - 1), so that no level
    is unused. For 4 bits smaller scales are tried too, each fitted to the levels that it gives, and
    the one of least squared error is taken.

    Args:
        blocks: float32, (..., block size).
        bits: 4 or 8.

    Returns:
        (..., 1), float32; 0 for a block of zeros.
    """
    lowest = 2 ** (bits - 1)
    widest: Tensor = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -lowest
    if bits == 8:
        return widest
    best, least = widest, _squared_error(blocks, widest, bits)
    for factor in _SCALE_FACTORS:
        levels = round_to_levels(blocks, widest * factor, bits)
        scales = (blocks * levels).sum(-1, keepdim=True)
        scales /= levels.square().sum(-1, keepdim=True).clamp_min(1)  # 0 for zeros alone
        error = _squared_error(blocks, scales, bits)
        best = torch.where(error < least, scales, best)
        least = torch.minimum(error, least)
    return best


def round_to_levels(blocks: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The nearest levels, whole numbers in float32 from -2**(bits - 1); 0 where a scale is 0."""
    lowest = 2 ** (bits - 1)
    levels: Tensor = blocks * torch.where(scales == 0, 0.0, 1.0 / scales)
    return levels.round_().clamp_(-lowest, lowest - 1)


def pack_blocks(levels: Tensor, bits: int, block_size: int) -> Tensor:
    """Pack a matrix's levels as MatMulNBits reads them.

    Args:
        levels: (inputs, outputs), whole numbers from -2**(bits - 1), in float32.
        bits: 4 or 8.
        block_size: Inputs per scale; the last block is filled up with zeros.

    Returns:
        uint8, (outputs, blocks, block_size * bits / 8): offset by 2**(bits - 1), low nibble first
        for 4 bits.
    """
    return _pack(_blocks(levels, block_size), bits)


def _blocks(matrix: Tensor, block_size: int) -> Tensor:
    """(inputs, outputs) to (outputs, blocks, block_size), with zeros in the last block's rest."""
    padding = -matrix.shape[0] % block_size
    padded = nn.functional.pad(matrix.T, (0, padding)).contiguous()  # sums run the same everywhere
    blocks: Tensor = padded.unflatten(1, (-1, block_size))
    return blocks


def _pack(levels: Tensor, bits: int) -> Tensor:
    packed: Tensor = (levels + 2 ** (bits - 1)).to(torch.uint8)
    if bits == 4:
        packed = packed[..., 0::2] | (packed[..., 1::2] << 4)
    return packed.contiguous()


def _squared_error(blocks: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Of each block when it is rounded, (..., 1)."""
    errors: Tensor = round_to_levels(blocks, scales, bits) * scales - blocks
    return errors.square().sum(-1, keepdim=True)


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
