"""The operations of Dia and DAC that an exporter places in its own way, in plain PyTorch.

The modules in :mod:`dia_models.dia` and :mod:`dia_models.dac` call them through a :class:`Kernels`
object, so that one definition of a model both runs eagerly (here) and is traced with other
operators (the exporter passes its own kernels). Whatever they compute, they compute as upstream
does: RMSNorm, RoPE and softmax in float32, attention with scale 1.0.
"""

from collections.abc import Sequence
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
        text_mask: The real text positions of each conditional row, as :meth:`Kernels.key_mask`
            gives them.
        positions: (rows, steps): the same positions as ``seqlens_k``, of every step, as
            :meth:`Kernels.as_index` gives them.
        mask: float32, (rows, 1, steps * groups, cache): 0 where a query may look, -inf where the
            cache holds its future; ``groups`` query heads share a key head, and follow each step.
        rope: Cosines and sines for the self-attention, as :meth:`Kernels.cached_rope` gives them.
        cross_rope: Those for the cross-attention's queries, as :meth:`Kernels.rope` gives them;
            None where it has no RoPE.
    """

    seqlens_k: Tensor
    total_sequence_length: Tensor
    text_mask: Tensor
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


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(rows, steps, heads * head_dim) to (rows, heads, steps, head_dim)."""
    heads: Tensor = x.unflatten(-1, (num_heads, -1))
    return heads.transpose(1, 2)


class Kernels:
    """Eager PyTorch kernels; the reference that every exported graph is held against."""

    def as_index(self, numbers: Tensor) -> Tensor:
        """Tokens, codes or positions in the dtype that :meth:`lookup` takes: int64."""
        return numbers.long()

    def lookup(self, index: Tensor, table: Tensor) -> Tensor:
        """Rows of a table (rows, width): an index (...) to (..., width)."""
        return functional.embedding(index, table)

    def length(self, x: Tensor) -> Tensor:
        """int64, (1,): the size of the last axis, to compute with in a graph, whatever it is."""
        return torch.tensor(x.shape[-1:])

    def crop(self, x: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """The last axis without its first ``before`` and its last ``after`` items, int64, (1,)."""
        return x[..., int(before) : x.shape[-1] - int(after)]

    def embed_channels(self, tokens: Tensor, table: Tensor, offsets: Tensor) -> Tensor:
        """The sum of the channels' embeddings.

        Args:
            tokens: (rows, steps, channels), as :meth:`as_index` gives them.
            table: (channels * vocab, width), channel after channel.
            offsets: int64, (channels,): each channel's first row in the table.

        Returns:
            (rows, steps, width).
        """
        return self.lookup(tokens + offsets, table).sum(2)

    def causal_mask(self, positions: Tensor, cache: int, groups: int) -> Tensor:
        """The mask of :class:`Step` for queries at ``positions``, (rows, steps), in a cache."""
        future = torch.arange(cache, device=positions.device) > positions.unsqueeze(-1)
        mask = torch.zeros_like(future, dtype=torch.float32).masked_fill(future, float("-inf"))
        rows, steps = positions.shape
        return mask.unsqueeze(2).expand(-1, -1, groups, -1).reshape(rows, 1, steps * groups, cache)

    def key_mask(
        self,
        lengths: Tensor,
        positions: int,
        steps: int,  # noqa: ARG002 - the exporter's kernels need them
        dtype: torch.dtype,  # noqa: ARG002 - the exporter's kernels need it
    ) -> Tensor:
        """What :meth:`attention` takes of each row's length; here what is added to its scores.

        Args:
            lengths: int32, (rows,): how many positions of each row are real.
            positions: Of the keys.
            steps: Of the queries.
            dtype: Of the queries.

        Returns:
            float32, (rows, 1, 1, positions): 0 at each row's first ``lengths``, -inf after them.
            The exporter's kernels return other things, whose first axis has the rows, too.
        """
        padding = torch.arange(positions, device=lengths.device) >= lengths[:, None, None, None]
        return torch.zeros_like(padding, dtype=torch.float32).masked_fill(padding, float("-inf"))

    def write(self, past: Tensor, new: Tensor, step: Step) -> Tensor:
        """A cache, (rows, kv_heads, cache, head_dim), with new steps at their positions.

        Args:
            past: The cache so far.
            new: (rows, kv_heads, steps, head_dim), of any dtype.
            step: Where each row stands.
        """
        index = step.positions[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3])
        return past.scatter(2, index, new.to(past.dtype))

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm over the last axis, in float32, returned in the dtype of ``x``."""
        return functional.rms_norm(x.float(), x.shape[-1:], weight.float(), eps).to(x.dtype)

    def add_norm(
        self, x: Tensor, update: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """The sum of two tensors, and :meth:`rms_norm` of it."""
        x = x + update
        return x, self.rms_norm(x, weight, eps)

    def rope(self, positions: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`rotate` needs of the tables: here, their rows at the positions.

        Args:
            positions: (rows, steps), as :meth:`as_index` gives them.
            cos: float32, (positions, head_dim / 2), as from :func:`rope_tables`.
            sin: The same for the sines.
        """
        return self.lookup(positions, cos), self.lookup(positions, sin)

    def cached_rope(
        self,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
        dtype: torch.dtype,  # noqa: ARG002 - the exporter's kernels need it
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`cached_attention` needs of the tables, for queries and keys of a dtype."""
        return self.rope(positions, cos, sin)

    def rotate(
        self,
        x: Tensor,
        positions: Tensor,  # noqa: ARG002 - the exporter's kernels need them
        cos: Tensor,
        sin: Tensor,
        num_heads: int,
    ) -> Tensor:
        """Half-split RoPE, in float32, of x (rows, steps, heads * head_dim).

        Args:
            x: Queries or keys.
            positions: (rows, steps), as :meth:`as_index` gives them.
            cos: From :meth:`rope`, at these positions.
            sin: The same for the sines.
            num_heads: Heads in ``x``.
        """
        first, second = x.float().unflatten(-1, (num_heads, 2, -1)).unbind(-2)
        c, s = cos.unsqueeze(2), sin.unsqueeze(2)
        rotated = torch.cat([first * c - second * s, second * c + first * s], dim=-1)
        return rotated.flatten(-2).to(x.dtype)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attention, scale 1.0, over the real positions of each row.

        Args:
            query: (rows, steps, heads * head_dim).
            key: (rows, heads, positions, head_dim).
            value: The same.
            mask: As :meth:`key_mask` gives it.

        Returns:
            (rows, steps, heads * head_dim).
        """
        scores = (split_heads(query, key.shape[1]) @ key.transpose(-1, -2)).float()
        weights = (scores + mask).softmax(-1).to(query.dtype)
        return (weights @ value).transpose(1, 2).flatten(-2)

    def unconditional_values(self, values: Tensor, rows: int, steps: int) -> Sequence[Tensor]:
        """Each layer's constant of (layers, width) for as many rows, (rows, steps, width) each."""
        return [value.expand(rows, steps, -1) for value in values]

    def guided_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, unconditional: Tensor
    ) -> Tensor:
        """Cross-attention of the conditional rows, which come first; a constant for the others.

        An unconditional row's text is all zeros, so the encoder gives every position the same
        value, and attention, whatever its weights, returns just that.

        Args:
            query: (rows, steps, heads * head_dim).
            key: (texts, heads, positions, head_dim), of the first ``texts`` rows.
            value: The same.
            mask: As :meth:`key_mask` gives it for these rows.
            unconditional: The other rows', (rows - texts, steps, heads * head_dim).

        Returns:
            (rows, steps, heads * head_dim).
        """
        mixed = self.attention(query[: len(mask)], key, value, mask)
        return torch.cat([mixed, unconditional])

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
        keys = self.write(past_key, split_heads(key, num_kv_heads), step)
        values = self.write(past_value, split_heads(value, num_kv_heads), step)
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

    def nearest(self, queries: Tensor, codebook: Tensor) -> Tensor:
        """The codes whose vectors point most nearly the way of the queries.

        Args:
            queries: (batch, frames, width).
            codebook: (codes, width).

        Returns:
            (batch, frames), as :meth:`as_index` gives them; the lower code wins a tie.
        """
        units = functional.normalize(queries, dim=-1), functional.normalize(codebook, dim=-1)
        return squared_distance(*units).argmin(-1)


def squared_distance(queries: Tensor, codes: Tensor) -> Tensor:
    """Of unit vectors: (batch, frames, width) and (codes, width) to (batch, frames, codes).

    As in both originals it is written out: with the bare cosine, rounding would pick another code
    now and then.
    """
    distance = (queries * queries).sum(-1, keepdim=True) - 2 * queries @ codes.t()
    return distance + (codes * codes).sum(-1)
