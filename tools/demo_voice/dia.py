"""The model: a narrow Dia, transformers' class."""

import math
from copy import copy

import torch
from torch import nn
from transformers import DiaConfig, DiaDecoderConfig, DiaEncoderConfig, DiaForConditionalGeneration

HEAD_DIM = 32
DELAY_PATTERN = (0, 8, 9, 10, 11, 12, 13, 14, 15)
GUIDED_LAYERS = (1, 2)
"""The decoder layers whose cross-attention is shown where in the text the speech is."""

GUIDED_HEADS = 2
"""So many heads of each of these layers."""


def make_dia(
    encoder_width: int = 128, encoder_layers: int = 3, width: int = 192, layers: int = 4
) -> DiaForConditionalGeneration:
    """Dia with fewer and narrower layers, freshly drawn.

    The published weights are made for attention without the usual division by the square root of
    the head's width: the queries and keys are drawn so much smaller.
    """
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    encoder = DiaEncoderConfig(
        num_hidden_layers=encoder_layers,
        hidden_size=encoder_width,
        num_attention_heads=encoder_width // HEAD_DIM,
        num_key_value_heads=encoder_width // HEAD_DIM,
        head_dim=HEAD_DIM,
        intermediate_size=3 * encoder_width,
        rope_parameters=rope,
    )
    decoder = DiaDecoderConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_attention_heads=width // HEAD_DIM,
        num_key_value_heads=2,
        head_dim=HEAD_DIM,
        cross_num_attention_heads=encoder_width // HEAD_DIM,
        cross_head_dim=HEAD_DIM,
        cross_num_key_value_heads=encoder_width // HEAD_DIM,
        cross_hidden_size=encoder_width,
        rope_parameters=rope,
    )
    dia = DiaForConditionalGeneration(
        DiaConfig(encoder_config=encoder, decoder_config=decoder, delay_pattern=list(DELAY_PATTERN))
    )
    with torch.no_grad():
        for name, part in dia.named_modules():
            if isinstance(part, nn.Embedding):
                part.weight.normal_(0, 0.5 if "decoder" in name else 1.0)
            elif isinstance(part, nn.Linear):
                part.weight.normal_(0, _gain(name) / math.sqrt(part.in_features))
    return dia


def _gain(name: str) -> float:
    if name.endswith(("q_proj", "k_proj")):
        return HEAD_DIM**-0.25
    return 0.5 if name.endswith(("o_proj", "down_proj", "logits_dense")) else 1.0


def guided_attentions(dia: DiaForConditionalGeneration) -> list[nn.Module]:
    """The cross-attentions of `GUIDED_LAYERS`, made to return their weights."""
    attentions = [dia.model.decoder.layers[layer].cross_attention for layer in GUIDED_LAYERS]
    for attention in attentions:
        attention.config = copy(attention.config)
        attention.config._attn_implementation = "eager"  # noqa: SLF001
    return attentions
