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

    def rope(self, positions: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The whole tables: the operators look up in them."""
        return cos, sin

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

    def guided_attention(
        self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, unconditional: Tensor
    ) -> Tensor:
        """MultiHeadAttention of the first rows; the shapes come from ``lengths`` alone."""
        rows, steps, width = query.shape
        texts = lengths.shape[0]
        first, stop = torch.zeros(1, dtype=torch.int64), torch.tensor([texts])
        conditional = symbolic(
            "Slice", (query, first, stop, first), dtype=query.dtype, shape=(texts, steps, width)
        )
        mixed = self.attention(conditional, key, value, lengths)
        return torch.cat([mixed, unconditional.expand(rows - texts, steps, width)])

    def cached_attention(
        self,
        qkv: Tensor,
        past_key: Tensor,
        past_value: Tensor,
        step: Step,
        scales: tuple[Tensor, Tensor],
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
            tables: tuple[Tensor | None, ...] = step.rope
            attributes["do_rotary"] = 1
        else:
            query, key, value = qkv.split([width, kv_width, kv_width], dim=-1)
            query = self.rotate(query, step.positions, *step.rope, num_heads)
            key = self.rotate(key, step.positions, *step.rope, num_kv_heads)
            heads, tables = (query, key, value), (None, None)
        quantization: tuple[Tensor | None, ...] = ()
        if past_key.dtype == torch.int8:
            attributes |= {
                "k_quant_type": "PER_TENSOR",
                "v_quant_type": "PER_TENSOR",
                "kv_cache_bit_width": 8,
            }
            quantization = (None, None, None, *scales)  # no position_ids, bias or sink
        output, keys, values = symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            (
                *(*heads, past_key, past_value),
                *(step.seqlens_k, step.total_sequence_length),
                *(*tables, *quantization),
            ),
            attributes,
            dtypes=[qkv.dtype, past_key.dtype, past_value.dtype],
            shapes=[(rows, steps, width), past_key.shape, past_value.shape],
        )
        return output, keys, values
