"""What a decoder step is compared with: transformers, eager."""

import dataclasses
import time
from typing import Any

import torch
from transformers import DiaConfig as TransformersConfig
from transformers import DiaForConditionalGeneration

from benchmark.settings import (
    CACHED_POSITIONS,
    ROWS,
    TEXT_POSITIONS,
    WARM_UP_STEPS,
    Settings,
)
from dia_export.exporter import RANDOM_MODELS
from dia_models.config import DiaConfig


@torch.inference_mode()
def decoder_step(settings: Settings, dtype: str) -> dict[str, Any]:
    """Time transformers' forward pass of one step, logits included, guidance and sampling not.

    Returns:
        ``step_ms``, one figure per step; ``prefill_s`` of the positions before.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    config = RANDOM_MODELS[settings.model][0]
    model: Any = DiaForConditionalGeneration(transformers_config(config))
    model.eval()
    text = torch.randint(1, config.encoder.vocab_size, (ROWS, TEXT_POSITIONS))
    mask = torch.ones_like(text)
    encoded = model.model.encoder(input_ids=text, attention_mask=mask)

    def forward(tokens: torch.Tensor, cache: Any) -> Any:
        return model(
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=tokens,
            past_key_values=cache,
            use_cache=True,
        ).past_key_values

    steps = CACHED_POSITIONS + WARM_UP_STEPS + settings.steps
    shape = (ROWS, steps, config.decoder.num_channels)
    tokens = torch.randint(0, config.eos_token_id, shape)
    started = time.perf_counter()
    cache = forward(tokens[:, :CACHED_POSITIONS], None)
    prefill_s = time.perf_counter() - started
    step_ms = []
    for position in range(CACHED_POSITIONS, steps):
        started = time.perf_counter()
        cache = forward(tokens[:, position : position + 1], cache)
        step_ms.append((time.perf_counter() - started) * 1e3)
    return {"step_ms": step_ms[WARM_UP_STEPS:], "prefill_s": prefill_s}


def transformers_config(config: DiaConfig) -> TransformersConfig:
    """The same model, as transformers names its sizes."""
    decoder = config.decoder
    return TransformersConfig(
        encoder_config=_renamed(config.encoder),
        decoder_config=_renamed(decoder)
        | {
            "cross_num_attention_heads": decoder.cross_num_heads,
            "cross_num_key_value_heads": decoder.cross_num_heads,
            "eos_token_id": config.eos_token_id,
            "pad_token_id": config.pad_token_id,
            "bos_token_id": config.bos_token_id,
        },
        delay_pattern=list(config.delay_pattern),
    )


_NAMES = {
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "max_positions": "max_position_embeddings",
}


def _renamed(config: Any) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    values.setdefault("num_kv_heads", values["num_heads"])
    values.pop("cross_num_heads", None)
    theta = values.pop("rope_theta")
    return {_NAMES.get(name, name): value for name, value in values.items()} | {
        "rope_parameters": {"rope_type": "default", "rope_theta": theta}
    }
