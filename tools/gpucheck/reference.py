"""transformers' side, on the same device, and the device's bandwidth."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import DiaForConditionalGeneration, StaticCache

from benchmark.reference import transformers_config
from benchmark.settings import CACHED_POSITIONS, ROWS, TEXT_POSITIONS, WARM_UP_STEPS
from dia_export.exporter import RANDOM_MODELS

CONTESTANTS = {
    "transformers bf16": ("bfloat16", False),
    "transformers fp16": ("float16", False),
    "transformers fp16, static and compiled": ("float16", True),
}
"""By name: dtype, and whether the cache is static and the step compiled."""


@torch.inference_mode()
def step(model: str, device: str, steps: int, contestant: str) -> dict[str, Any]:
    """``step_ms`` of one utterance, its two rows, at 500 positions: the forward pass alone."""
    dtype, compiled = CONTESTANTS[contestant]
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    config = RANDOM_MODELS[model][0]
    dia: Any = DiaForConditionalGeneration(transformers_config(config)).to(device).eval()
    text = torch.randint(1, config.encoder.vocab_size, (ROWS, TEXT_POSITIONS), device=device)
    mask = torch.ones_like(text)
    encoded = dia.model.encoder(input_ids=text, attention_mask=mask)
    total = CACHED_POSITIONS + WARM_UP_STEPS + steps
    shape = (ROWS, total, config.decoder.num_channels)
    tokens = torch.randint(0, config.eos_token_id, shape, device=device)
    cache = None
    if compiled:
        from transformers import EncoderDecoderCache

        sizes = {"config": dia.config.decoder_config, "max_cache_len": total}
        cross = {"config": dia.config.decoder_config, "max_cache_len": TEXT_POSITIONS}
        cache = EncoderDecoderCache(StaticCache(**sizes), StaticCache(**cross))

    def forward(part: torch.Tensor, cache: Any) -> Any:
        return dia(
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=part,
            past_key_values=cache,
            use_cache=True,
        ).past_key_values

    cache = forward(tokens[:, :CACHED_POSITIONS], cache)
    run: Callable[..., Any] = forward
    if compiled:
        run = torch.compile(forward, mode="reduce-overhead")
    timings = []
    for position in range(CACHED_POSITIONS, total):
        started = time.perf_counter()
        cache = run(tokens[:, position : position + 1], cache)
        _wait(device)
        timings.append((time.perf_counter() - started) * 1e3)
    return {"step_ms": float(np.median(timings[WARM_UP_STEPS:]))}


def bandwidth(device: str) -> dict[str, Any]:
    """GB/s of reading: the sum over a large tensor of float16."""
    data = torch.zeros(2**30 if device == "cuda" else 2**26, dtype=torch.float16, device=device)
    timings = []
    for _ in range(6):
        started = time.perf_counter()
        data.sum(dtype=torch.float32)
        _wait(device)
        timings.append(time.perf_counter() - started)
    return {"gb_per_s": data.nbytes / min(timings) / 1e9}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
