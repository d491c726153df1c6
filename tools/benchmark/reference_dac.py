"""What decoding audio is compared with: torch, eager."""

import time
from typing import Any

import torch

from benchmark.settings import DAC_REPEATS, Settings
from dia_export.exporter import RANDOM_MODELS
from dia_models.dac import DacDecoder
from dia_models.dia import load_weights
from dia_models.random_weights import random_dac

_GEMM_SIZE = 2048
_GEMMS = 10


@torch.inference_mode()
def dac_decode(settings: Settings) -> dict[str, Any]:
    """Time the codec's decoder in torch, all frames at once.

    Returns:
        ``seconds_per_second`` of audio, one figure per repeat; and ``gflops``, the rate of float32
        matrix products at best.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    dac = random_dac(RANDOM_MODELS[settings.model][1])
    config = dac.config
    module = DacDecoder(config).eval()
    load_weights(module, dac.weights)
    codes = torch.randint(0, config.codebook_size, (1, config.num_codebooks, settings.dac_frames))
    duration = settings.dac_frames * config.hop_length / config.sample_rate
    timings = []
    for _ in range(1 + DAC_REPEATS):
        started = time.perf_counter()
        module.whole(codes)
        timings.append((time.perf_counter() - started) / duration)
    return {"seconds_per_second": timings[1:], "gflops": _gemm_rate()}


def _gemm_rate() -> float:
    """Floating point operations, in billions a second, of the fastest of some products."""
    matrix = torch.randn(_GEMM_SIZE, _GEMM_SIZE)
    best = float("inf")
    for _ in range(_GEMMS):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        best = min(best, time.perf_counter() - started)
    return 2 * _GEMM_SIZE**3 / best / 1e9
