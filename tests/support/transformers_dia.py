"""Dia as Hugging Face transformers runs it: the independent implementation to be equal to."""

import numpy as np
import torch
from transformers import DiaConfig, DiaForConditionalGeneration
from transformers.models.dia.configuration_dia import DiaDecoderConfig, DiaEncoderConfig

PAD, BOS, EOS = 1025, 1026, 1024
DELAYS = (0, 8, 9, 10, 11, 12, 13, 14, 15)
MAX_DELAY = max(DELAYS)


def tiny_model(seed, *, eos_gain):
    """A small random Dia, lively enough that greedy codes do not repeat.

    Args:
        seed: Of the weights.
        eos_gain: Factor of channel 0's EOS logit: 0 keeps generation from ending by itself, 2
            lets it end soon.
    """
    config = DiaConfig(
        encoder_config=DiaEncoderConfig(
            num_hidden_layers=2,
            hidden_size=48,
            num_attention_heads=3,
            num_key_value_heads=3,
            head_dim=16,
            intermediate_size=80,
        ).to_dict(),
        decoder_config=DiaDecoderConfig(
            num_hidden_layers=3,
            hidden_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            cross_num_attention_heads=2,
            cross_num_key_value_heads=2,
            cross_head_dim=24,
            cross_hidden_size=48,
            intermediate_size=96,
        ).to_dict(),
    )
    model = DiaForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(1 + 0.1 * torch.randn(weight.shape, generator=generator))
            else:
                spread = 1.0 if "embed" in name else weight.shape[1] ** -0.5
                gain = 2.0 if "logits" in name else 1.0
                weight.copy_(gain * spread * torch.randn(weight.shape, generator=generator))
        model.logits_dense.weight[EOS] *= eos_gain
    return model


def generate_codes(model, texts, *, cfg_scale, max_tokens, prompt=None):
    """Greedy codes, (frames, channels) for each text, as dia_ort counts ``max_tokens``.

    transformers' ``max_length`` leaves the delay out, and ends one step earlier.
    """
    encoded = [text.encode().replace(b"[S1]", b"\x01").replace(b"[S2]", b"\x02") for text in texts]
    width = max(map(len, encoded))
    tokens = torch.tensor([list(e.ljust(width, b"\0")) for e in encoded])
    frames = np.zeros((0, len(DELAYS)), int) if prompt is None else prompt
    forced = delayed(frames)
    grid = torch.from_numpy(forced)[None].repeat(len(texts), 1, 1)
    tokens_out = model.generate(
        input_ids=tokens,
        attention_mask=(tokens != 0).long(),
        decoder_input_ids=grid,
        decoder_attention_mask=torch.ones(grid.shape[:2], dtype=torch.long),
        max_length=max_tokens - MAX_DELAY + 1,
        do_sample=True,
        temperature=1.0,
        top_p=1e-6,
        top_k=45,
        guidance_scale=cfg_scale or None,
    )
    return [undelayed(row.numpy(), len(frames)) for row in tokens_out]


def delayed(frames):
    """The forced grid, PAD (transformers' "free") where nothing is fixed."""
    rows = np.concatenate([np.full((1, len(DELAYS)), BOS), frames])
    grid = np.full((len(rows) + MAX_DELAY, len(DELAYS)), PAD)
    for channel, delay in enumerate(DELAYS):
        grid[:delay, channel] = BOS
        grid[delay : delay + len(rows), channel] = rows[:, channel]
    return grid


def undelayed(grid, prompt_frames):
    """Generated frames up to channel 0's EOS."""
    first = prompt_frames + 1
    ends = np.flatnonzero(grid[first:, 0] == EOS)
    count = ends[0] if len(ends) else len(grid) - MAX_DELAY - first
    codes = np.stack(
        [grid[first + delay : first + delay + count, c] for c, delay in enumerate(DELAYS)], axis=1
    )
    return np.where((codes >= 0) & (codes < EOS), codes, 0)
