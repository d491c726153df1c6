"""What a Dia model and its codec look like: frozen, validated settings, read strictly from JSON.

Torch-free. The names are this project's own; `DiaConfig.from_dict` and `DacConfig.from_dict`
translate the formats in which the checkpoints were published.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dia_models.strict_json import ConfigError

__all__ = ["ConfigError", "DacConfig", "DecoderConfig", "DiaConfig", "EncoderConfig"]

Release = Literal["first", "0626"]

_BYTES = 256
_LIMIT = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """The text encoder.

    Attributes:
        hidden_size: Width of the residual stream.
        num_layers: Number of layers.
        num_heads: Attention heads; as many for keys and values as for queries.
        head_dim: Width of one head.
        intermediate_size: Width of the MLP.
        vocab_size: Text tokens; these are bytes, so at least 256.
        max_positions: Longest text in tokens.
        norm_eps: Epsilon of the RMS norms.
        rope_theta: Base of the rotary embedding.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    rope_theta: float

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a field out of range."""
        _check_positive(self, "encoder")
        _check_even("encoder.head_dim", self.head_dim)
        if self.vocab_size < _BYTES:
            raise ConfigError(
                f"encoder.vocab_size is {self.vocab_size}, but the text tokens are bytes: "
                f"at least {_BYTES}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The audio-token decoder.

    Attributes:
        hidden_size: Width of the residual stream.
        num_layers: Number of layers.
        num_heads: Query heads of self-attention.
        num_kv_heads: Key and value heads of self-attention; divides `num_heads`.
        head_dim: Width of one self-attention head.
        cross_num_heads: Heads of cross-attention (queries, keys and values alike).
        cross_head_dim: Width of one cross-attention head.
        cross_hidden_size: Width of what cross-attention reads: the encoder's hidden size.
        intermediate_size: Width of the MLP.
        num_channels: Token channels, one per codebook of the codec.
        vocab_size: Tokens per channel: codes, end, padding, begin, and spare ones.
        max_positions: Most decoder steps.
        norm_eps: Epsilon of the RMS norms.
        rope_theta: Base of the rotary embedding.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    cross_num_heads: int
    cross_head_dim: int
    cross_hidden_size: int
    intermediate_size: int
    num_channels: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    rope_theta: float

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a field out of range."""
        _check_positive(self, "decoder")
        _check_even("decoder.head_dim", self.head_dim)
        _check_even("decoder.cross_head_dim", self.cross_head_dim)
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"decoder.num_heads ({self.num_heads}) is not a multiple of "
                f"decoder.num_kv_heads ({self.num_kv_heads})"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DiaConfig:
    """A Dia model.

    Attributes:
        encoder: The text encoder.
        decoder: The audio-token decoder.
        delay_pattern: Steps by which each channel lags; channel 0 never does.
        eos_token_id: Token that ends the speech.
        pad_token_id: Token after the end.
        bos_token_id: Token before the beginning.
        release: Generation of the weights. "first" is Dia-1.6B of April 2025, "0626" is
            Dia-1.6B-0626 and all that transformers loads.
    """

    encoder: EncoderConfig
    decoder: DecoderConfig
    delay_pattern: tuple[int, ...]
    eos_token_id: int
    pad_token_id: int
    bos_token_id: int
    release: Release

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a field out of range or at odds with another."""
        if self.release not in ("first", "0626"):
            raise ConfigError(f"release is {self.release!r}, expected 'first' or '0626'")
        if self.decoder.cross_hidden_size != self.encoder.hidden_size:
            raise ConfigError(
                f"decoder.cross_hidden_size ({self.decoder.cross_hidden_size}) differs from "
                f"encoder.hidden_size ({self.encoder.hidden_size})"
            )
        self._check_delays()
        self._check_tokens()

    def _check_delays(self) -> None:
        delays = self.delay_pattern
        if len(delays) != self.decoder.num_channels:
            raise ConfigError(
                f"delay_pattern has {len(delays)} entries for "
                f"decoder.num_channels = {self.decoder.num_channels}"
            )
        if delays[0] != 0 or min(delays) < 0:
            raise ConfigError(f"delay_pattern {list(delays)} must start with 0 and never be below")
        if max(delays) >= self.decoder.max_positions:
            raise ConfigError(
                f"delay_pattern reaches {max(delays)}, past "
                f"decoder.max_positions = {self.decoder.max_positions}"
            )

    def _check_tokens(self) -> None:
        tokens = {name: getattr(self, name) for name in _TOKENS}
        for name, token in tokens.items():
            if not 0 <= token < self.decoder.vocab_size:
                raise ConfigError(
                    f"{name} is {token}, outside decoder.vocab_size = {self.decoder.vocab_size}"
                )
        if len(set(tokens.values())) != len(tokens):
            raise ConfigError(f"token ids must differ from one another: {tokens}")

    @property
    def cross_rope(self) -> bool:
        """Whether cross-attention rotates queries and keys, as only the first release does."""
        return self.release == "first"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DiaConfig":
        """Read a published `config.json`.

        Flat configs (transformers, nari-labs since 0626) and nested ones (the first release)
        are told apart by their keys.

        Raises:
            ConfigError: Naming every missing, unknown and unsupported field.
        """
        from dia_models.published_configs import read_dia  # noqa: PLC0415 - it needs this module

        return read_dia(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON of the fields, for provenance."""
        return asdict(self) | {"delay_pattern": list(self.delay_pattern)}


_TOKENS = ("eos_token_id", "pad_token_id", "bos_token_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class DacConfig:
    """The descript audio codec.

    Attributes:
        sample_rate: Of the audio, in Hz.
        encoder_dim: Channels after the encoder's first convolution; each block doubles them.
        encoder_rates: Strides of the encoder's blocks.
        decoder_dim: Channels after the decoder's first convolution; each block halves them.
        decoder_rates: Strides of the decoder's blocks.
        latent_dim: Channels between encoder, quantiser and decoder.
        num_codebooks: Stages of the residual quantiser.
        codebook_size: Codes of one codebook.
        codebook_dim: Width of a code vector.
    """

    sample_rate: int
    encoder_dim: int
    encoder_rates: tuple[int, ...]
    decoder_dim: int
    decoder_rates: tuple[int, ...]
    latent_dim: int
    num_codebooks: int
    codebook_size: int
    codebook_dim: int

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a field out of range or at odds with another."""
        _check_positive(self, "codec")
        for name in ("encoder_rates", "decoder_rates"):
            rates = getattr(self, name)
            if not rates or min(rates) < 1:
                raise ConfigError(f"codec.{name} {list(rates)} must be positive strides")
            if any(rate % 2 for rate in rates):
                raise ConfigError(
                    f"codec.{name} {list(rates)} has an odd stride: frames would not line up "
                    "with samples"
                )
        if math.prod(self.encoder_rates) != math.prod(self.decoder_rates):
            raise ConfigError(
                f"codec.encoder_rates {list(self.encoder_rates)} and "
                f"codec.decoder_rates {list(self.decoder_rates)} have different products"
            )
        if self.decoder_dim % 2 ** len(self.decoder_rates):
            raise ConfigError(
                f"codec.decoder_dim ({self.decoder_dim}) can't be halved "
                f"{len(self.decoder_rates)} times"
            )

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.encoder_rates)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DacConfig":
        """Read transformers' `config.json` or the `metadata["kwargs"]` of descript's weights.

        Raises:
            ConfigError: Naming every missing, unknown and unsupported field.
        """
        from dia_models.published_configs import read_dac  # noqa: PLC0415 - it needs this module

        return read_dac(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON of the fields, for provenance."""
        return asdict(self) | {
            "encoder_rates": list(self.encoder_rates),
            "decoder_rates": list(self.decoder_rates),
        }


def _check_positive(config: EncoderConfig | DecoderConfig | DacConfig, section: str) -> None:
    for name, value in asdict(config).items():
        if isinstance(value, int | float) and not 0 < value < _LIMIT:
            raise ConfigError(f"{section}.{name} is {value}, not positive and below 2**31")


def _check_even(name: str, value: int) -> None:
    if value % 2:
        raise ConfigError(f"{name} is {value}, expected an even number (RoPE pairs the halves)")
