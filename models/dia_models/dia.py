"""Dia in PyTorch: the text encoder and the decoder, as the exported graphs divide them.

The cross-attention keys and values depend on the text alone, so their projections belong to the
text encoder; the decoder takes them, and its cache, as inputs. One decoder definition serves
prefill (many steps) and decoding (one).

Semantics follow nari-labs/dia and Hugging Face transformers. The first release's weights also
rotate the queries and keys of the cross-attention (``DiaConfig.cross_rope``).

Parameters are named and shaped as :func:`dia_models.checkpoint.dia_shapes` lists them. Linear
weights are stored input-first, as ``x @ weight``.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dia_models.checkpoint import Weight
from dia_models.config import DecoderConfig, DiaConfig, EncoderConfig
from dia_models.kernels import Kernels, Step, rope_tables, split_heads


class Linear(nn.Module):
    """A bias-free linear map with an input-first weight (in, out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return x @ self.weight


class Embedding(nn.Module):
    """A table of vectors (rows, width)."""

    def __init__(self, rows: int, width: int, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, index: Tensor) -> Tensor:
        """(...) to (..., width)."""
        return self.kernels.lookup(self.kernels.as_index(index), self.weight)


class ChannelEmbedding(nn.Module):
    """A table of vectors for each channel, (channels * vocab, width)."""

    offsets: Tensor

    def __init__(self, channels: int, vocab: int, width: int, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.weight = nn.Parameter(torch.empty(channels * vocab, width))
        self.register_buffer("offsets", torch.arange(channels) * vocab, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(rows, steps, channels) to the sum over the channels, (rows, steps, width)."""
        tokens = self.kernels.as_index(tokens)
        return self.kernels.embed_channels(tokens, self.weight, self.offsets)


class Norm(nn.Module):
    """RMSNorm with a learned scale, computed in float32, of a residual stream."""

    def __init__(self, width: int, eps: float, kernels: Kernels) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps
        self.kernels = kernels

    def forward(self, x: Tensor, update: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., width) and what the last block adds to it, to their sum and its norm."""
        if update is None:
            return x, self.kernels.rms_norm(x, self.weight, self.eps)
        return self.kernels.add_norm(x, update, self.weight, self.eps)


class Mlp(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up in one product."""

    def __init__(self, width: int, hidden: int, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.gate_up_proj = Linear(width, 2 * hidden)
        self.down_proj = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        out: Tensor = self.down_proj(self.kernels.gated_silu(self.gate_up_proj(x)))
        return out


class Projections(nn.Module):
    """The linear maps of one attention, by name."""

    qkv_proj: Linear
    q_proj: Linear
    o_proj: Linear

    def __init__(self, **maps: Linear) -> None:
        super().__init__()
        for name, linear in maps.items():
            self.add_module(name, linear)


class EncoderLayer(nn.Module):
    """Pre-norm bidirectional self-attention and MLP."""

    def __init__(self, config: EncoderConfig, kernels: Kernels) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.num_heads * config.head_dim
        self.num_heads = config.num_heads
        self.kernels = kernels
        self.pre_sa_norm = Norm(width, config.norm_eps, kernels)
        self.self_attention = Projections(
            qkv_proj=Linear(width, 3 * inner), o_proj=Linear(inner, width)
        )
        self.post_sa_norm = Norm(width, config.norm_eps, kernels)
        self.mlp = Mlp(width, config.intermediate_size, kernels)

    def forward(
        self,
        x: Tensor,
        update: Tensor | None,
        mask: Tensor,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(rows, text, hidden) and what the last layer adds to it, to the same of this one."""
        kernels, heads = self.kernels, self.num_heads
        x, normed = self.pre_sa_norm(x, update)
        qkv = self.self_attention.qkv_proj(normed)
        inner = qkv.shape[-1] // 3
        query, key, value = qkv.split([inner, inner, inner], dim=-1)
        query = kernels.rotate(query, positions, cos, sin, heads)
        key = kernels.rotate(key, positions, cos, sin, heads)
        mixed = kernels.attention(query, split_heads(key, heads), split_heads(value, heads), mask)
        x, normed = self.post_sa_norm(x, self.self_attention.o_proj(mixed))
        return x, self.mlp(normed)


class CrossKeyValue(nn.Module):
    """The text's side of one decoder layer's cross-attention."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.kv_proj = Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, text, width) to the key and the value, (rows, text, inner) each."""
        kv: Tensor = self.kv_proj(x)
        inner = kv.shape[-1] // 2
        key, value = kv.split([inner, inner], dim=-1)
        return key, value


class TextEncoder(nn.Module):
    """Text to the cross-attention keys and values of every decoder layer."""

    rope_cos: Tensor
    rope_sin: Tensor
    cross_rope_cos: Tensor
    cross_rope_sin: Tensor

    def __init__(self, config: DiaConfig, kernels: Kernels | None = None) -> None:
        super().__init__()
        kernels = kernels or Kernels()
        encoder, decoder = config.encoder, config.decoder
        self.kernels = kernels
        self.cross_rope = config.cross_rope
        self.cross_heads = decoder.cross_num_heads
        self.embedding = Embedding(encoder.vocab_size, encoder.hidden_size, kernels)
        self.layers = nn.ModuleList(
            EncoderLayer(encoder, kernels) for _ in range(encoder.num_layers)
        )
        self.norm = Norm(encoder.hidden_size, encoder.norm_eps, kernels)
        inner = decoder.cross_num_heads * decoder.cross_head_dim
        self.cross = nn.ModuleList(
            CrossKeyValue(encoder.hidden_size, inner) for _ in range(decoder.num_layers)
        )
        _add_rope(self, "rope", encoder.head_dim, encoder.max_positions, encoder.rope_theta)
        if self.cross_rope:
            _add_rope(
                self,
                "cross_rope",
                decoder.cross_head_dim,
                encoder.max_positions,
                decoder.rope_theta,
            )

    def forward(self, tokens: Tensor, lengths: Tensor) -> list[Tensor]:
        """Encode text.

        Args:
            tokens: int64, (rows, text): bytes, zero after each row's length.
            lengths: int32, (rows,): real positions of each row. Values at padded positions of the
                result mean nothing.

        Returns:
            Key and value of each decoder layer in turn, (rows, heads, text, head_dim) each.
        """
        kernels = self.kernels
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        rope = kernels.rope(positions, self.rope_cos, self.rope_sin)
        x, update = self.embedding(tokens), None
        mask = kernels.key_mask(lengths, tokens.shape[1], tokens.shape[1], x.dtype)
        for layer in self.layers:
            x, update = layer(x, update, mask, positions, *rope)
        _, x = self.norm(x, update)
        if self.cross_rope:
            rope = kernels.rope(positions, self.cross_rope_cos, self.cross_rope_sin)
        outputs = []
        for cross in self.cross:
            key, value = cross(x)
            if self.cross_rope:
                key = kernels.rotate(key, positions, *rope, self.cross_heads)
            outputs += [split_heads(key, self.cross_heads), split_heads(value, self.cross_heads)]
        return outputs


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, cross-attention and MLP.

    Attributes:
        key_scale: float32, (1,): what a level of an 8-bit cache's keys stands for.
        value_scale: The same for its values.
    """

    key_scale: Tensor
    value_scale: Tensor

    def __init__(self, config: DecoderConfig, kernels: Kernels) -> None:
        super().__init__()
        width = config.hidden_size
        inner, cross = (
            config.num_heads * config.head_dim,
            (config.cross_num_heads * config.cross_head_dim),
        )
        qkv = inner + 2 * config.num_kv_heads * config.head_dim
        self.config = config
        self.kernels = kernels
        self.pre_sa_norm = Norm(width, config.norm_eps, kernels)
        self.self_attention = Projections(qkv_proj=Linear(width, qkv), o_proj=Linear(inner, width))
        self.pre_ca_norm = Norm(width, config.norm_eps, kernels)
        self.cross_attention = Projections(q_proj=Linear(width, cross), o_proj=Linear(cross, width))
        self.pre_mlp_norm = Norm(width, config.norm_eps, kernels)
        self.mlp = Mlp(width, config.intermediate_size, kernels)
        self.register_buffer("key_scale", torch.ones(1), persistent=False)
        self.register_buffer("value_scale", torch.ones(1), persistent=False)

    def forward(
        self,
        x: Tensor,
        update: Tensor | None,
        step: Step,
        cross_key: Tensor,
        cross_value: Tensor,
        uncond_value: Tensor,
        past_key: Tensor,
        past_value: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(rows, steps, hidden) and what the last layer adds to it, to the same, and the cache."""
        kernels, config = self.kernels, self.config
        x, normed = self.pre_sa_norm(x, update)
        mixed, key, value = kernels.cached_attention(
            self.self_attention.qkv_proj(normed),
            past_key,
            past_value,
            step,
            (self.key_scale, self.value_scale),
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
        )
        x, normed = self.pre_ca_norm(x, self.self_attention.o_proj(mixed))
        query = self.cross_attention.q_proj(normed)
        if step.cross_rope is not None:
            query = kernels.rotate(query, step.positions, *step.cross_rope, config.cross_num_heads)
        mixed = kernels.guided_attention(
            query, cross_key, cross_value, step.text_mask, uncond_value
        )
        x, normed = self.pre_mlp_norm(x, self.cross_attention.o_proj(mixed))
        return x, self.mlp(normed), key, value


class Decoder(nn.Module):
    """Audio tokens so far to the logits of the next, through a key/value cache."""

    rope_cos: Tensor
    rope_sin: Tensor
    cross_rope_cos: Tensor
    cross_rope_sin: Tensor

    def __init__(self, config: DiaConfig, kernels: Kernels | None = None) -> None:
        super().__init__()
        kernels = kernels or Kernels()
        decoder = config.decoder
        self.config = decoder
        self.kernels = kernels
        self.cross_rope = config.cross_rope
        self.embedding = ChannelEmbedding(
            decoder.num_channels, decoder.vocab_size, decoder.hidden_size, kernels
        )
        self.layers = nn.ModuleList(
            DecoderLayer(decoder, kernels) for _ in range(decoder.num_layers)
        )
        self.norm = Norm(decoder.hidden_size, decoder.norm_eps, kernels)
        self.logits = Linear(decoder.hidden_size, decoder.num_channels * decoder.vocab_size)
        _add_rope(self, "rope", decoder.head_dim, decoder.max_positions, decoder.rope_theta)
        if self.cross_rope:
            _add_rope(
                self,
                "cross_rope",
                decoder.cross_head_dim,
                decoder.max_positions,
                decoder.rope_theta,
            )

    def forward(
        self,
        tokens: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        text_lengths: Tensor,
        uncond_value: Tensor,
        cross: list[Tensor],
        past: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Decode one step, or prefill several.

        Args:
            tokens: int64, (rows, steps, channels), already delayed.
            seqlens_k: int32, (rows,): the position of each row's last step.
            total_sequence_length: int32, (1,): the largest of ``seqlens_k`` plus one.
            text_lengths: int32, (texts,): real text positions of the conditional rows, which come
                before the unconditional ones.
            uncond_value: (layers, heads * head_dim): what the cross-attention of an unconditional
                row gives, :class:`TextEncoder`'s value for a text of zeros.
            cross: Key and value of each layer in turn, (texts, heads, text, head_dim), from
                :class:`TextEncoder`.
            past: Key and value cache of each layer in turn, (rows, kv_heads, cache, head_dim).

        Returns:
            Logits, float32, (rows, steps, channels, vocab); then the caches with the new steps.
        """
        kernels = self.kernels
        steps, groups = tokens.shape[1], self.config.num_heads // self.config.num_kv_heads
        # Counted from the last step: a size to subtract would have to be copied to a GPU.
        steps_back = torch.arange(1 - steps, 1, device=tokens.device)
        positions = kernels.as_index(seqlens_k)[:, None] + steps_back
        x, update = self.embedding(tokens), None
        step = Step(
            seqlens_k,
            total_sequence_length,
            kernels.key_mask(text_lengths, cross[0].shape[2], steps, x.dtype),
            positions,
            kernels.causal_mask(positions, past[0].shape[2], groups),
            kernels.cached_rope(positions, self.rope_cos, self.rope_sin, x.dtype),
            kernels.rope(positions, self.cross_rope_cos, self.cross_rope_sin)
            if self.cross_rope
            else None,
        )
        unconditional = kernels.unconditional_values(
            uncond_value, tokens.shape[0] - text_lengths.shape[0], steps
        )
        caches = []
        for i, layer in enumerate(self.layers):
            at = slice(2 * i, 2 * i + 2)
            x, update, key, value = layer(x, update, step, *cross[at], unconditional[i], *past[at])
            caches += [key, value]
        _, x = self.norm(x, update)
        logits = self.logits(x).float()
        shape = (self.config.num_channels, self.config.vocab_size)
        return (logits.unflatten(-1, shape), *caches)


def _add_rope(module: nn.Module, name: str, head_dim: int, positions: int, theta: float) -> None:
    """Register the tables that RoPE reads; they are derived, so no checkpoint holds them."""
    cos, sin = rope_tables(head_dim, positions, theta)
    module.register_buffer(f"{name}_cos", cos, persistent=False)
    module.register_buffer(f"{name}_sin", sin, persistent=False)


def load_weights(
    module: nn.Module,
    weights: Mapping[str, Weight],
    prefix: str = "",
    dtype: torch.dtype | None = None,
) -> None:
    """Fill a module's parameters, one weight at a time.

    Args:
        module: Built on any device, the ``meta`` device included.
        weights: A checkpoint's weights by canonical name.
        prefix: What stands before the module's own parameter names, such as ``"decoder."``.
        dtype: Converts to this dtype; None keeps each weight's own.
    """
    state = {
        name: weights[prefix + name].load().to(dtype or weights[prefix + name].dtype)
        for name, _ in module.named_parameters()
    }
    module.load_state_dict(state, assign=True)
