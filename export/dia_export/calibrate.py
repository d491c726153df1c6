"""The scales of an 8-bit key/value cache, from what the model puts into one.

A scale must be known when the graph is made, so the decoder is run over a sample script and random
audio tokens. On the trained demo, the largest keys and values of random tokens and of real speech
are within 10% of each other.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from dia_models.checkpoint import Weight
from dia_models.config import DiaConfig
from dia_models.dia import Decoder, DecoderLayer, TextEncoder, load_weights
from dia_ort.text import encode_text

_SCRIPT = "[S1] yes. [S2] no, (laughs) not now! [S1] are you sure?"
_STEPS = 256
_HEADROOM = 1.5
_LEVELS = 127


@torch.inference_mode()
def calibrate_cache(
    config: DiaConfig, weights: Mapping[str, Weight], seed: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Find what one level of an 8-bit cache must stand for.

    No more than a layer's weights are in memory at a time.

    Args:
        config: Of the model.
        weights: Of its checkpoint.
        seed: Of the random tokens.

    Returns:
        Of each decoder layer the scale of its keys and of its values, float32 of shape (1,): half
        as much again as the largest magnitude that was seen still fits.
    """
    text = torch.from_numpy(encode_text(_SCRIPT, config.encoder.max_positions))[None]
    lengths = torch.tensor([text.shape[1]], dtype=torch.int32)
    encoder = _filled_in_turn(TextEncoder(config), weights, "encoder.")
    cross = encoder(torch.cat([text, torch.zeros_like(text)]), lengths.repeat(2))

    shape = config.decoder
    steps = min(_STEPS, shape.max_positions)
    tokens = np.random.default_rng(seed).integers(
        0, config.eos_token_id, (1, steps, shape.num_channels)
    )
    for channel, delay in enumerate(config.delay_pattern):
        tokens[:, : delay + 1, channel] = config.bos_token_id
    cache = torch.zeros(2, shape.num_kv_heads, steps, shape.head_dim)
    decoder = _filled_in_turn(Decoder(config), weights, "decoder.")
    _, *caches = decoder(
        torch.from_numpy(tokens).repeat(2, 1, 1),
        torch.full((2,), steps - 1, dtype=torch.int32),
        torch.tensor([steps], dtype=torch.int32),
        lengths,
        torch.stack([value[1, :, 0].flatten() for value in cross[1::2]]),
        [value[:1] for value in cross],
        [cache] * (2 * shape.num_layers),
    )
    scales = [_HEADROOM / _LEVELS * values.abs().amax().reshape(1) for values in caches]
    return list(zip(scales[::2], scales[1::2], strict=True))


def set_cache_scales(decoder: nn.Module, scales: list[tuple[Tensor, Tensor]]) -> None:
    """Give every layer of a decoder the scales that :func:`calibrate_cache` found."""
    layers = (module for module in decoder.modules() if isinstance(module, DecoderLayer))
    for layer, (key_scale, value_scale) in zip(layers, scales, strict=True):
        layer.key_scale, layer.value_scale = key_scale, value_scale


def _filled_in_turn(module: nn.Module, weights: Mapping[str, Weight], prefix: str) -> nn.Module:
    """An unfilled module whose parts read their weights when they run, and drop them after."""

    def watch(part: nn.Module, name: str) -> None:
        def fill(*_call: object) -> None:
            load_weights(part, weights, name, torch.float32)

        def drop(*_call: object) -> None:
            for parameter in part.parameters():
                parameter.data = torch.empty(0)

        part.register_forward_pre_hook(fill)
        part.register_forward_hook(drop)

    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            for index, layer in enumerate(child):
                watch(layer, f"{prefix}{name}.{index}.")
        else:
            watch(child, f"{prefix}{name}.")
    return module
