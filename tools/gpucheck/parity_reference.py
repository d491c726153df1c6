"""transformers' side of the parity check, in the runtime's own loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DiaForConditionalGeneration

from benchmark.reference import transformers_config
from dia_export.exporter import RANDOM_MODELS
from dia_models.layouts import transformers_dia
from dia_models.random_weights import random_dia
from dia_ort.graphs import ModelSpec
from gpucheck.parity import speak_greedily

Tokens = NDArray[np.int64]
Logits = NDArray[np.float32]


@torch.no_grad()
def speak(
    model: str, dtype: str, device: str, spec: ModelSpec, steps: int, path: Path
) -> dict[str, Any]:
    """Speak greedily, and save the tokens and logits of every step.

    Args:
        model: A random model's name.
        dtype: torch's name of what to compute in.
        device: torch's name of it.
        spec: As the export's manifest has it.
        steps: How many.
        path: Of the file.
    """
    decoder = _TransformersDecoder(_model(model, dtype, device))
    speak_greedily(decoder, lambda tokens: [tokens], spec, steps, path)
    return {}


class _TransformersDecoder:
    """transformers as the scheduler wants a decoder, with its own cache. One slot."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None

    def set_text(self, _slot: int, tokens: Sequence[Tokens], length: int) -> None:
        script = torch.from_numpy(tokens[0])[None].to(self._model.device)
        pair = torch.cat([script, torch.zeros_like(script)])
        self._mask = torch.ones(2, length, dtype=torch.long, device=self._model.device)
        self._encoded = self._model.model.encoder(input_ids=pair, attention_mask=self._mask)

    def step(self, tokens: Tokens, _positions: Tokens) -> Logits:
        inputs = torch.from_numpy(tokens)[:, None].repeat(2, 1, 1).to(self._model.device)
        out = self._model(
            encoder_outputs=self._encoded,
            attention_mask=self._mask,
            decoder_input_ids=inputs,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = out.past_key_values
        logits: Logits = out.logits.float().reshape(1, 2, tokens.shape[1], -1).cpu().numpy()
        return logits

    def release(self, _slot: int) -> None:
        self._cache = None


def _model(name: str, dtype: str, device: str) -> Any:
    """The model with the weights that the exports of the random model have."""
    config = RANDOM_MODELS[name][0]
    checkpoint = random_dia(config)
    # Float32 products in full: dia-ort's CUDA sessions have TF32 off, too.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_default_dtype(getattr(torch, dtype))  # not .to(): RoPE's tables stay in float32
    with torch.device(device):
        model: Any = DiaForConditionalGeneration(transformers_config(config))
    model.eval()
    parameters = dict(model.named_parameters())
    for weight, recipe in transformers_dia(config).items():
        value = checkpoint.weights[weight].load()
        parts = [value]
        if value.ndim == 2 and not weight.endswith("embedding.weight"):  # ours are input-first
            parts = list(value.t().split([shape[0] for shape in recipe.parts.values()]))
        for key, part in zip(recipe.parts, parts, strict=True):
            parameters.pop(key).copy_(part)
    if parameters:
        raise ValueError(f"transformers has weights that no layout names: {', '.join(parameters)}")
    return model
