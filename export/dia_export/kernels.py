"""Dia's operations as single ONNX nodes, for tracing.

Each method stands for the eager kernel of the same name in :mod:`dia_models.kernels`, which states
the semantics. The fused operators are onnxruntime's (domain com.microsoft): GroupQueryAttention
writes the cache in place when past and present share memory, and gives each row its own position.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.onnx.ops import symbolic, symbolic_multi_out

from dia_models.kernels import Kernels, Step


class OnnxKernels(Kernels):
    """Kernels that leave one ONNX node each, or few, in a traced graph.

    Graphs in half precision are for GPUs, where a small kernel takes as long as its launch: they
    have as few nodes as can be, and none that computes a norm, RoPE or softmax in half precision.
    """

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

    def add_norm(
        self, x: Tensor, update: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """SkipSimplifiedLayerNormalization in half precision: one kernel, float32 within."""
        if x.dtype == torch.float32:
            return super().add_norm(x, update, weight, eps)
        normed, _, _, total = symbolic_multi_out(
            "com.microsoft::SkipSimplifiedLayerNormalization",
            (x, update, weight.to(x.dtype)),
            {"epsilon": eps},
            dtypes=[x.dtype, torch.float32, torch.float32, x.dtype],
            shapes=[x.shape, (1,), (1,), x.shape],
        )
        return total, normed

    def gated_silu(self, gate_up: Tensor) -> Tensor:
        """In half precision, in an order in which gate and sigmoid(gate) do not meet.

        Of their product onnxruntime makes one node, whose kernel for GPUs computes in half
        precision throughout: 0 for all below -8.
        """
        if gate_up.dtype == torch.float32:
            return super().gated_silu(gate_up)
        shape = (*gate_up.shape[:-1], gate_up.shape[-1] // 2)
        gate, up = symbolic_multi_out(
            "Split",
            (gate_up,),
            {"axis": -1, "num_outputs": 2},
            dtypes=[gate_up.dtype] * 2,
            shapes=[shape] * 2,
        )
        return up * gate.sigmoid() * gate

    def rope(self, positions: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The whole tables: the operators look up in them."""
        return cos, sin

    def cached_rope(
        self,
        positions: Tensor,  # noqa: ARG002
        cos: Tensor,
        sin: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """The whole tables, rounded as GroupQueryAttention wants them; it rotates in float32."""
        return cos.to(dtype), sin.to(dtype)

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

    def key_mask(self, lengths: Tensor, positions: int, steps: int, dtype: torch.dtype) -> Tensor:  # noqa: ARG002
        """The lengths themselves."""
        return lengths

    def attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """MultiHeadAttention with each row's length as its mask."""
        return symbolic(
            "com.microsoft::MultiHeadAttention",
            (query, key, value, None, mask),
            {"num_heads": key.shape[1], "scale": 1.0, "mask_filter_value": -1e30},
            dtype=query.dtype,
            shape=query.shape,
        )

    def unconditional_values(self, values: Tensor, rows: int, steps: int) -> Sequence[Tensor]:
        """Repeated once, and split by width: a prompt has none of these rows to be split."""
        layers, width = values.shape
        repeated = values.flatten().expand(rows, steps, layers * width)
        parts: Sequence[Tensor] = symbolic_multi_out(
            "Split",
            (repeated,),
            {"axis": -1, "num_outputs": layers},
            dtypes=[values.dtype] * layers,
            shapes=[(rows, steps, width)] * layers,
        )
        return parts

    def guided_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, unconditional: Tensor
    ) -> Tensor:
        """MultiHeadAttention of the first rows; the shapes come from ``mask`` alone."""
        _, steps, width = query.shape
        texts = mask.shape[0]
        first, stop = torch.zeros(1, dtype=torch.int64), torch.tensor([texts])
        conditional = symbolic(
            "Slice", (query, first, stop, first), dtype=query.dtype, shape=(texts, steps, width)
        )
        mixed = self.attention(conditional, key, value, mask)
        return torch.cat([mixed, unconditional])

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
        """GroupQueryAttention, which splits, rotates and attends."""
        rows, steps, head_dim = qkv.shape[0], qkv.shape[1], past_key.shape[-1]
        attributes: dict[str, Any] = {
            "num_heads": num_heads,
            "kv_num_heads": num_kv_heads,
            "scale": 1.0,
            "do_rotary": 1,
        }
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
                *(qkv, None, None, past_key, past_value),
                *(step.seqlens_k, step.total_sequence_length),
                *(*step.rope, *quantization),
            ),
            attributes,
            dtypes=[qkv.dtype, past_key.dtype, past_value.dtype],
            shapes=[(rows, steps, num_heads * head_dim), past_key.shape, past_value.shape],
        )
        return output, keys, values
