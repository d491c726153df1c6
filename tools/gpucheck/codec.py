"""Codes to audio: how far from PyTorch's float32, and how fast, with several provider options."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from dia_ort.artifacts import find_artifact
from dia_ort.placement import open_dac_decoder
from dia_ort.providers import resolve_provider

_REPEATS = 3
_HELD_FRAMES = 86  # a second: PyTorch decodes them on the CPU

VARIANTS: dict[str, dict[str, str]] = {
    "as it is": {},
    "tf32": {"use_tf32": "1"},
    "exhaustive": {"cudnn_conv_algo_search": "EXHAUSTIVE"},
    "tf32, exhaustive": {"use_tf32": "1", "cudnn_conv_algo_search": "EXHAUSTIVE"},
}
"""CUDA options over dia-ort's own, by name; other providers run the first alone."""


def decode(folder: Path, provider: str, variant: str, model: str, frames: int) -> dict[str, Any]:
    """Decode random codes as the runtime does.

    Args:
        folder: An export of the random model.
        provider: An execution provider.
        variant: Of :data:`VARIANTS`.
        model: The random model's name.
        frames: To time.

    Returns:
        ``max_error``: of the samples of a second, from PyTorch's in float32, full scale being 1;
        ``first_s``: the first call's seconds; ``seconds_per_second`` of audio, at best.
    """
    artifact = find_artifact(folder)
    codec = artifact.manifest.codec
    options = VARIANTS[variant]
    decoder = open_dac_decoder(artifact, resolve_provider(provider, options), None)
    random = np.random.default_rng(0)
    codes = random.integers(0, codec.codebook_size, (frames, codec.num_codebooks))
    timings = []
    for _ in range(1 + _REPEATS):
        started = time.perf_counter()
        decoder.decode(codes)
        timings.append(time.perf_counter() - started)
    held = codes[:_HELD_FRAMES]
    difference = decoder.decode(held) - _in_torch(model, held)
    return {
        "max_error": float(np.abs(difference).max()),
        "first_s": timings[0],
        "seconds_per_second": min(timings[1:]) * codec.sample_rate / (frames * codec.hop_length),
    }


def _in_torch(model: str, codes: Any) -> Any:
    """PyTorch's samples in float32 on the CPU, all frames at once: (samples,)."""
    import torch  # after the measurement: its libraries must not help ours

    from dia_export.exporter import RANDOM_MODELS
    from dia_models.dac import DacDecoder
    from dia_models.dia import load_weights
    from dia_models.random_weights import random_dac

    dac = random_dac(RANDOM_MODELS[model][1])
    module = DacDecoder(dac.config).eval()
    load_weights(module, dac.weights)
    with torch.inference_mode():
        return module.whole(torch.from_numpy(codes.T[None].copy()))[0, 0].numpy()
