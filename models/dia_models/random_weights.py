"""Checkpoints of random weights: for tests, benchmarks and first tries without a download.

The weights are scaled so that activations, attention and logits stay in the range of a trained
model. Each tensor has a generator of its own, seeded by the seed and its name, so a tensor does
not depend on which others were read, and none is kept.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from dia_models.checkpoint import Checkpoint, DacCheckpoint, DiaCheckpoint, Weight
from dia_models.config import DacConfig, DecoderConfig, DiaConfig, EncoderConfig
from dia_models.layouts import Shape, dac_shapes, dia_shapes

_DELAYS = (0, 8, 9, 10, 11, 12, 13, 14, 15)
_SCORE_STD = 2.0  # of the attention scores q.k, which upstream doesn't scale down
_LOGIT_STD = 2.0

FULL_DIA = DiaConfig(
    encoder=EncoderConfig(
        hidden_size=1024,
        num_layers=12,
        num_heads=16,
        head_dim=128,
        intermediate_size=4096,
        vocab_size=256,
        max_positions=1024,
        norm_eps=1e-5,
        rope_theta=10000.0,
    ),
    decoder=DecoderConfig(
        hidden_size=2048,
        num_layers=18,
        num_heads=16,
        num_kv_heads=4,
        head_dim=128,
        cross_num_heads=16,
        cross_head_dim=128,
        cross_hidden_size=1024,
        intermediate_size=8192,
        num_channels=9,
        vocab_size=1028,
        max_positions=3072,
        norm_eps=1e-5,
        rope_theta=10000.0,
    ),
    delay_pattern=_DELAYS,
    eos_token_id=1024,
    pad_token_id=1025,
    bos_token_id=1026,
    release="0626",
)
"""The published 1.6B model."""

FULL_DAC = DacConfig(
    sample_rate=44100,
    encoder_dim=64,
    encoder_rates=(2, 4, 8, 8),
    decoder_dim=1536,
    decoder_rates=(8, 8, 4, 2),
    latent_dim=1024,
    num_codebooks=9,
    codebook_size=1024,
    codebook_dim=8,
)
"""The published 44.1 kHz codec."""

TINY_DIA = DiaConfig(
    encoder=EncoderConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        head_dim=16,
        intermediate_size=64,
        vocab_size=256,
        max_positions=1024,
        norm_eps=1e-5,
        rope_theta=10000.0,
    ),
    decoder=DecoderConfig(
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        cross_num_heads=4,
        cross_head_dim=16,
        cross_hidden_size=32,
        intermediate_size=128,
        num_channels=9,
        vocab_size=1028,
        max_positions=3072,
        norm_eps=1e-5,
        rope_theta=10000.0,
    ),
    delay_pattern=_DELAYS,
    eos_token_id=1024,
    pad_token_id=1025,
    bos_token_id=1026,
    release="0626",
)
"""Two layers a side, narrow; tokens, channels and delays of the real model."""

TINY_DAC = DacConfig(
    sample_rate=44100,
    encoder_dim=8,
    encoder_rates=(2, 4, 8, 8),
    decoder_dim=64,
    decoder_rates=(8, 8, 4, 2),
    latent_dim=128,
    num_codebooks=9,
    codebook_size=1024,
    codebook_dim=8,
)
"""Few channels; rates and codebooks of the real codec."""


def random_dia(config: DiaConfig, seed: int = 0) -> DiaCheckpoint:
    """A Dia checkpoint of random float32 weights."""
    weights = _weights(dia_shapes(config), partial(_dia_weight, config), seed)
    return Checkpoint(config, weights, "random", f"random, seed {seed}", None, ())


def random_dac(config: DacConfig, seed: int = 0) -> DacCheckpoint:
    """A codec checkpoint of random float32 weights."""
    weights = _weights(dac_shapes(config), _dac_weight, seed)
    return Checkpoint(config, weights, "random", f"random, seed {seed}", None, ())


_Draw = Callable[[str, Shape, torch.Generator], Tensor]


def _weights(shapes: Mapping[str, Shape], draw: _Draw, seed: int) -> dict[str, Weight]:
    return {
        name: Weight(shape, torch.float32, partial(_load, draw, name, shape, seed))
        for name, shape in shapes.items()
    }


def _load(draw: _Draw, name: str, shape: Shape, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return draw(name, shape, generator).contiguous()


def _dia_weight(config: DiaConfig, name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("norm.weight"):
        return 1 + 0.1 * noise
    if name == "encoder.embedding.weight":
        return noise
    if name == "decoder.embedding.weight":  # the channels' vectors are summed
        return noise / math.sqrt(config.decoder.num_channels)
    noise *= _column_gains(config, name, shape[1]) / math.sqrt(shape[0])  # in place: it may be big
    return noise


def _column_gains(config: DiaConfig, name: str, width: int) -> Tensor:
    """Standard deviations of a linear map's outputs, for inputs of unit variance: (width,)."""
    decoder = config.decoder
    gains = torch.ones(width)
    if name == "decoder.logits.weight":
        gains *= _LOGIT_STD
    elif name.endswith("qkv_proj.weight"):
        head_dim = (config.encoder if name.startswith("encoder") else decoder).head_dim
        kv_heads = decoder.num_kv_heads if name.startswith("decoder") else config.encoder.num_heads
        gains[: width - kv_heads * head_dim] *= _query_gain(head_dim)
    elif name.endswith(".q_proj.weight"):
        gains *= _query_gain(decoder.cross_head_dim)
    elif name.endswith(".kv_proj.weight"):
        gains[: width // 2] *= _query_gain(decoder.cross_head_dim)
    return gains


def _query_gain(head_dim: int) -> float:
    """For queries and keys alike: the scores then have the standard deviation _SCORE_STD."""
    return math.sqrt(_SCORE_STD / math.sqrt(head_dim))


# Gains of the codec's layers by the end of their names; they hold the power steady through the
# residual units and Snakes, take audio of about 0.2 to 1, and give audio of about 0.2.
_DAC_GAINS = {
    "encoder.conv1.weight": 5.0,
    "decoder.conv1.weight": 1.0,
    "decoder.conv2.weight": 0.15,
    "res_unit1.conv2.weight": 0.5,
    "res_unit2.conv2.weight": 0.5,
    "res_unit3.conv2.weight": 0.5,
    "out_proj.weight": 1 / 3,
    "conv1.weight": 0.7,
    "conv_t1.weight": 0.7,
}


def _dac_weight(name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("alpha"):
        return (noise / 4).exp()
    if name.endswith("bias"):
        return noise / 20
    if name.endswith("codebook.weight"):
        return noise
    # Of a transposed convolution, whose kernel is twice its stride, two taps reach each sample.
    fan_in = 2 * shape[0] if name.endswith("conv_t1.weight") else math.prod(shape[1:])
    gain = next((gain for end, gain in _DAC_GAINS.items() if name.endswith(end)), 1.0)
    return noise * (gain / math.sqrt(fan_in))
