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
from gpucheck.summary import COMPILED

CONTESTANTS = {
    "transformers bf16": ("bfloat16", False),
    "transformers fp16": ("float16", False),
    COMPILED: ("float16", True),
}
"""By name: dtype, and whether the cache is static and the step compiled."""


@torch.inference_mode()
def step(model: str, device: str, steps: int, contestant: str) -> dict[str, Any]:
    """``step_ms`` of one utterance, its two rows, at 500 positions: the forward pass alone.

    The logits are returned, so that nothing of the last layer is compiled away.
    """
    dtype, compiled = CONTESTANTS[contestant]
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    config = RANDOM_MODELS[model][0]
    with torch.device(device):  # there, random weights take no time
        dia: Any = DiaForConditionalGeneration(transformers_config(config))
    dia.eval()
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
        out = dia(
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=part,
            past_key_values=cache,
            use_cache=True,
        )
        return out.logits, out.past_key_values

    _, cache = forward(tokens[:, :CACHED_POSITIONS], cache)
    run: Callable[..., Any] = forward
    if compiled:
        run = torch.compile(forward, mode="reduce-overhead")
    timings = []
    for position in range(CACHED_POSITIONS, total):
        _wait(device)
        started = time.perf_counter()
        _, cache = run(tokens[:, position : position + 1], cache)
        _wait(device)
        timings.append((time.perf_counter() - started) * 1e3)
    return {"step_ms": float(np.median(timings[WARM_UP_STEPS:]))}


def bandwidth(device: str) -> dict[str, Any]:
    """GB/s at best: of reading a large tensor (its sum), or of copying it (read and written)."""
    data = torch.zeros(2**30 if device == "cuda" else 2**26, dtype=torch.float16, device=device)
    copy = torch.empty_like(data)
    rates = {
        "read_gb_per_s": data.nbytes / _shortest(lambda: data.sum(dtype=torch.float32), device),
        "copy_gb_per_s": 2 * data.nbytes / _shortest(lambda: copy.copy_(data), device),
    }
    rates = {name: rate / 1e9 for name, rate in rates.items()}
    return {**rates, "gb_per_s": max(rates.values())}


def _shortest(call: Callable[[], object], device: str) -> float:
    """Seconds of the quickest of some calls."""
    timings = []
    for _ in range(6):
        _wait(device)
        started = time.perf_counter()
        call()
        _wait(device)
        timings.append(time.perf_counter() - started)
    return min(timings)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
