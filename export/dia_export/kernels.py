"""Dia's operations as single ONNX nodes, for tracing.

Each method stands for the eager kernel of the same name in :mod:`dia_models.kernels`, which states
the semantics. The fused operators are onnxruntime's (domain com.microsoft): GroupQueryAttention
writes the cache in place when past and present share memory, and gives each row its own position.
"""

from typing import Any

import torch
from torch import Tensor
from torch.onnx.ops import symbolic, symbolic_multi_out

from dia_models.kernels import Kernels, Step


class OnnxKernels(Kernels):
    """Kernels that leave one ONNX node each in a traced graph."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNormalization in float32."""
        wide = x.float()
        normed = symbolic(
            "RMSNormalization",
            (wide, weight.float()),
            {"axis": -1, "epsilon": eps},
            dtype=torch.float32,
            shape=x.shape,
        )
        return normed.to(x.dtype)

    def rotate(
        self, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, num_heads: int
    ) -> Tensor:
        """RotaryEmbedding in float32."""
        rotated = symbolic(
            "com.microsoft::RotaryEmbedding",
            (x.float(), positions, cos, sin),
            {"num_heads": num_heads, "interleaved": 0},
            dtype=torch.float32,
            shape=x.shape,
        )
        return rotated.to(x.dtype)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> Tensor:
        """MultiHeadAttention with each row's length as its mask."""
        return symbolic(
            "com.microsoft::MultiHeadAttention",
            (query, key, value, None, lengths),
            {"num_heads": key.shape[1], "scale": 1.0, "mask_filter_value": -1e30},
            dtype=query.dtype,
            shape=query.shape,
        )

    def cached_attention(
        self,
        qkv: Tensor,
        past_key: Tensor,
        past_value: Tensor,
        step: Step,
        *,
        num_heads: int,
        num_kv_heads: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """GroupQueryAttention; it rotates by itself only where it would do so in float32."""
        rows, steps, head_dim = qkv.shape[0], qkv.shape[1], past_key.shape[-1]
        width, kv_width = num_heads * head_dim, num_kv_heads * head_dim
        attributes: dict[str, Any] = {
            "num_heads": num_heads,
            "kv_num_heads": num_kv_heads,
            "scale": 1.0,
        }
        if qkv.dtype == torch.float32:
            heads: tuple[Tensor | None, ...] = (qkv, None, None)
            tables: tuple[Tensor, ...] = step.rope
            attributes["do_rotary"] = 1
        else:
            query, key, value = qkv.split([width, kv_width, kv_width], dim=-1)
            query = self.rotate(query, step.positions, *step.rope, num_heads)
            key = self.rotate(key, step.positions, *step.rope, num_kv_heads)
            heads, tables = (query, key, value), ()
        output, keys, values = symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            (*heads, past_key, past_value, step.seqlens_k, step.total_sequence_length, *tables),
            attributes,
            dtypes=[qkv.dtype] * 3,
            shapes=[(rows, steps, width), past_key.shape, past_value.shape],
        )
        return output, keys, values
