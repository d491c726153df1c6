"""Dia's operations for onnxruntime's WebGPU provider, where its kernels are not everybody's.

It takes GroupQueryAttention, but no 8-bit cache; and MultiHeadAttention, but no lengths of rows.
"""

import torch
from torch import Tensor
from torch.onnx.ops import symbolic

from dia_export.kernels import OnnxKernels

_FAR = -6e4
"""Instead of infinity: half precision holds it, and no row is left without a number."""


class WebGpuKernels(OnnxKernels):
    """As :class:`OnnxKernels`, but each row's length is a bias of its scores."""

    def key_mask(self, lengths: Tensor, positions: int, steps: int, dtype: torch.dtype) -> Tensor:
        """-6e4 for each position after the last: (rows, 1, steps, positions), in ``dtype``."""
        padding = torch.arange(positions, dtype=torch.int32) >= lengths[:, None, None, None]
        return torch.where(padding, _FAR, 0.0).to(dtype).expand(-1, -1, steps, -1)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """MultiHeadAttention with the mask as a bias."""
        return symbolic(
            "com.microsoft::MultiHeadAttention",
            (query, key, value, None, None, mask),
            {"num_heads": key.shape[1], "scale": 1.0},
            dtype=query.dtype,
            shape=query.shape,
        )
