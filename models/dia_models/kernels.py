"""The operations of Dia that an exporter wants to place as one node, in plain PyTorch.

The modules in :mod:`dia_models.dia` call them through a :class:`Kernels` object, so that one
definition of the model both runs eagerly (here) and is traced with fused operators (the exporter
passes its own kernels). Whatever they compute, they compute as upstream does: RMSNorm, RoPE and
softmax in float32, attention with scale 1.0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Step:
    """What every layer of one decoder call shares.

    Attributes:
        seqlens_k: int32, (rows,): the position of each row's last step, as GroupQueryAttention
            counts.
        total_sequence_length: int32, (1,): the largest of ``seqlens_k`` plus one.
        text_lengths: int32, (texts,): real text positions of each conditional row.
        positions: int64, (rows, steps): the same positions as ``seqlens_k``, of every step.
        mask: float32, (rows, 1, steps * groups, cache): 0 where a query may look, -inf where the
            cache holds its future; ``groups`` query heads share a key head, and follow each step.
        rope: Cosines and sines for the self-attention.
        cross_rope: The same for the cross-attention's queries; None where it has no RoPE.
    """

    seqlens_k: Tensor
    total_sequence_length: Tensor
    text_lengths: Tensor
    positions: Tensor
    mask: Tensor
    rope: tuple[Tensor, Tensor]
    cross_rope: tuple[Tensor, Tensor] | None


def rope_tables(head_dim: int, positions: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of half-split RoPE.

    Returns:
        Two float32 tensors of shape (positions, head_dim / 2).
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    angles = torch.arange(positions, dtype=torch.float32)[:, None] / theta**exponents
    return angles.cos(), angles.sin()


def causal_mask(positions: Tensor, cache: int, groups: int) -> Tensor:
    """The mask of :class:`Step` for queries at ``positions``, (rows, steps), in a cache."""
    future = torch.arange(cache, device=positions.device) > positions.unsqueeze(-1)
    mask = torch.zeros_like(future, dtype=torch.float32).masked_fill(future, float("-inf"))
    rows, steps = positions.shape
    return mask.unsqueeze(2).expand(-1, -1, groups, -1).reshape(rows, 1, steps * groups, cache)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(rows, steps, heads * head_dim) to (rows, heads, steps, head_dim)."""
    heads: Tensor = x.unflatten(-1, (num_heads, -1))
    return heads.transpose(1, 2)


class Kernels:
    """Eager PyTorch kernels; the reference that every exported graph is held against."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last axis, in float32, returned in the dtype of ``x``."""
        return functional.rms_norm(x.float(), x.shape[-1:], weight.float(), eps).to(x.dtype)

    def rotate(
        self, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, num_heads: int
    ) -> Tensor:
        """Half-split RoPE, in float32, of x (rows, steps, heads * head_dim).

        Args:
            x: Queries or keys.
            positions: int64, (rows, steps).
            cos: float32, (positions, head_dim / 2), as from :func:`rope_tables`.
            sin: The same for the sines.
            num_heads: Heads in ``x``.
        """
        first, second = x.float().unflatten(-1, (num_heads, 2, -1)).unbind(-2)
        c, s = cos[positions].unsqueeze(2), sin[positions].unsqueeze(2)
        rotated = torch.cat([first * c - second * s, second * c + first * s], dim=-1)
        return rotated.flatten(-2).to(x.dtype)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> Tensor:
        """Attention, scale 1.0, over the first ``lengths`` positions of each row.

        Args:
            query: (rows, steps, heads * head_dim).
            key: (rows, heads, positions, head_dim).
            value: The same.
            lengths: int32, (rows,): how many positions of each row are real.

        Returns:
            (rows, steps, heads * head_dim).
        """
        scores = (split_heads(query, key.shape[1]) @ key.transpose(-1, -2)).float()
        padding = torch.arange(key.shape[2], device=key.device) >= lengths[:, None, None, None]
        weights = scores.masked_fill(padding, float("-inf")).softmax(-1).to(query.dtype)
        return (weights @ value).transpose(1, 2).flatten(-2)

    def guided_attention(
        self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, unconditional: Tensor
    ) -> Tensor:
        """Cross-attention of the conditional rows, which come first; a constant for the others.

        An unconditional row's text is all zeros, so the encoder gives every position the same
        value, and attention, whatever its weights, returns just that.

        Args:
            query: (rows, steps, heads * head_dim).
            key: (texts, heads, positions, head_dim), of the first ``texts`` rows.
            value: The same.
            lengths: int32, (texts,): how many positions of each are real.
            unconditional: (heads * head_dim,): the value of the other rows.

        Returns:
            (rows, steps, heads * head_dim).
        """
        texts = len(lengths)
        mixed = self.attention(query[:texts], key, value, lengths)
        return torch.cat([mixed, unconditional.expand_as(query[texts:])])

    def cached_attention(
        self,
        qkv: Tensor,
        past_key: Tensor,
        past_value: Tensor,
        step: Step,
        scales: tuple[Tensor, Tensor],  # noqa: ARG002 - the exporter's kernels need them
        *,
        num_heads: int,
        num_kv_heads: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Causal grouped-query self-attention with RoPE and a cache, each row at its own position.

        Args:
            qkv: (rows, steps, (heads + 2 * kv_heads) * head_dim), query, key and value in a row.
            past_key: (rows, kv_heads, cache, head_dim); rotated keys.
            past_value: The same, values.
            step: Where each row stands.
            scales: float32, (1,), of the keys and of the values, should the cache hold 8-bit
                levels; only exported graphs have such a cache.
            num_heads: Query heads.
            num_kv_heads: Key and value heads.

        Returns:
            The output (rows, steps, heads * head_dim), and the cache with the new steps in it.
        """
        rows, steps, head_dim = qkv.shape[0], qkv.shape[1], past_key.shape[-1]
        groups = num_heads // num_kv_heads
        widths = [num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim]
        query, key, value = qkv.split(widths, dim=-1)
        query = self.rotate(query, step.positions, *step.rope, num_heads)
        key = self.rotate(key, step.positions, *step.rope, num_kv_heads)
        index = step.positions[:, None, :, None].expand(-1, num_kv_heads, -1, head_dim)
        keys = past_key.scatter(2, index, split_heads(key, num_kv_heads).to(past_key.dtype))
        values = past_value.scatter(2, index, split_heads(value, num_kv_heads).to(past_value.dtype))
        # The heads that share keys go through one product, so that each key is read once.
        query = query.view(rows, steps, num_kv_heads, groups, head_dim).transpose(1, 2)
        query = query.reshape(rows, num_kv_heads, steps * groups, head_dim)
        scores = (query @ keys.transpose(-1, -2)).float() + step.mask
        mixed = scores.softmax(-1).to(values.dtype) @ values
        mixed = mixed.view(rows, num_kv_heads, steps, groups * head_dim).transpose(1, 2)
        return mixed.reshape(rows, steps, num_heads * head_dim), keys, values

    def gated_silu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up of (..., 2 * width), gate first: (..., width)."""
        width = gate_up.shape[-1] // 2
        return functional.silu(gate_up[..., :width]) * gate_up[..., width:]
