"""Greedy codes against transformers on the same device: where they part, and how far logits are.

Both sides have the same random weights and go through the runtime's own loop: transformers stands
in it as another decoder. So what parts them is the forward pass alone.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DiaForConditionalGeneration

from benchmark.apart import run_apart
from benchmark.reference import transformers_config
from dia_export.exporter import RANDOM_MODELS
from dia_models.layouts import transformers_dia
from dia_models.random_weights import random_dia
from dia_ort import GenerationConfig
from dia_ort.generation import Utterance
from dia_ort.graphs import DECODER, ModelSpec
from dia_ort.manifest import read_manifest
from dia_ort.placement import choose_file
from dia_ort.providers import resolve_provider
from dia_ort.scheduler import Request, Scheduler
from dia_ort.text import encode_text
from gpucheck.ours import Setup

_TEXT = "[S1] Hello, how are you? [S2] Quite well, thank you (laughs). [S1] Good to hear."
_BARRED = -1e4
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

Grid = NDArray[np.int64]
Logits = NDArray[np.float32]


def comparable_dtype(folder: Path, provider: str) -> str | None:
    """torch's name of what an artifact computes in on a provider.

    None where that is not what its weights are stored in: transformers has no such model.
    """
    manifest = read_manifest(folder)
    compute = choose_file(manifest, DECODER, resolve_provider(provider)).compute
    return compute if _DTYPES.get(manifest.dtype) == compute else None


def greedy(setup: Setup, folder: Path, model: str, steps: int) -> dict[str, Any]:
    """Speak the same script greedily on both sides, each in a process of its own.

    Args:
        setup: How ours is run.
        folder: An export of the random model, for which :func:`comparable_dtype` has one.
        model: The random model's name.
        steps: Decoder steps; the end of speech is barred.

    Returns:
        The figures of :func:`compare`, and transformers' ``dtype``.
    """
    dtype = comparable_dtype(folder, setup.provider)
    device = "cuda" if setup.provider == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = Path(scratch) / "ours.npz", Path(scratch) / "theirs.npz"
        spec = read_manifest(folder).model
        run_apart("gpucheck.parity:speak_theirs", model, dtype, device, spec, steps, theirs)
        run_apart("gpucheck.parity:speak_ours", setup, folder, steps, ours)
        with np.load(ours) as have, np.load(theirs) as want:
            figures = compare(have["tokens"], have["logits"], want["tokens"], want["logits"])
    return {"dtype": dtype, **figures}


def compare(have: Grid, have_logits: Logits, want: Grid, want_logits: Logits) -> dict[str, Any]:
    """Two runs of as many steps.

    Args:
        have: The tokens that each step was given, (steps, channels).
        have_logits: What it answered, (steps, 2, channels, vocabulary).
        want: As ``have``, of transformers.
        want_logits: As ``have_logits``.

    Returns:
        ``steps``; ``parted_at``, the first step that was given other tokens, None if there is none;
        ``different_tokens``, how many of a step's there; and over the steps before it, whose pasts
        are the same, ``max_error`` of the logits, and ``error``: its RMS over that of the logits.
    """
    parted = np.flatnonzero((have != want).any(axis=1))
    same = int(parted[0]) if len(parted) else len(want)
    difference = (have_logits[:same] - want_logits[:same]).astype(np.float64)
    scale = float(np.mean(want_logits[:same].astype(np.float64) ** 2))
    return {
        "steps": len(want),
        "parted_at": same if len(parted) else None,
        "different_tokens": int((have[same] != want[same]).sum()) if len(parted) else 0,
        "max_error": float(np.abs(difference).max()),
        "error": float(np.sqrt(np.mean(difference**2) / scale)),
    }


def speak_ours(setup: Setup, folder: Path, steps: int, path: Path) -> dict[str, Any]:
    """dia-ort's side, into a file."""
    dia = setup.load(folder)
    _speak(dia.open_decoder(1), dia.encode_text, dia.manifest.model, steps, path)
    return {}


@torch.no_grad()
def speak_theirs(
    model: str, dtype: str, device: str, spec: ModelSpec, steps: int, path: Path
) -> dict[str, Any]:
    """transformers' side, into a file."""
    decoder = _TransformersDecoder(_model(model, dtype, device))
    _speak(decoder, lambda tokens: [tokens], spec, steps, path)
    return {}


def _speak(
    decoder: Any,
    encode: Callable[[Grid], Sequence[Any]],
    model: ModelSpec,
    steps: int,
    path: Path,
) -> None:
    recorded = _Recorded(decoder, model)
    scheduler = Scheduler(recorded, model, encode)
    config = GenerationConfig(temperature=0, max_tokens=steps + model.max_delay + 1)
    utterance = Utterance(model, config, np.zeros((0, model.num_channels), np.int64))
    tokens = encode_text(_TEXT, model.max_text, model.text_vocab_size)
    scheduler.add(Request(tokens, utterance))
    while len(recorded.tokens) < steps:
        for request in scheduler.tick():
            if request.error:
                raise request.error
    np.savez(path, tokens=np.array(recorded.tokens), logits=np.array(recorded.logits))


class _Recorded:
    """A decoder of one slot that keeps what goes in and out, and bars the end of speech."""

    def __init__(self, decoder: Any, model: ModelSpec) -> None:
        self.slots = 1
        self.tokens: list[Grid] = []
        self.logits: list[Logits] = []
        self._decoder = decoder
        self._eos = model.eos_token_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def step(self, tokens: Grid, positions: Grid) -> Logits:
        logits: Logits = self._decoder.step(tokens, positions).copy()
        self.tokens.append(tokens[0].copy())
        self.logits.append(logits[0].copy())
        logits[:, :, 0, self._eos :] = _BARRED
        return logits


class _TransformersDecoder:
    """transformers as the scheduler wants a decoder, with its own cache. One slot."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None

    def set_text(self, _slot: int, tokens: Sequence[Grid], length: int) -> None:
        script = torch.from_numpy(tokens[0])[None].to(self._model.device)
        pair = torch.cat([script, torch.zeros_like(script)])
        self._mask = torch.ones(2, length, dtype=torch.long, device=self._model.device)
        self._encoded = self._model.model.encoder(input_ids=pair, attention_mask=self._mask)

    def step(self, tokens: Grid, _positions: Grid) -> Logits:
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
    """transformers' model with the weights that the exports of the random model have."""
    config = RANDOM_MODELS[name][0]
    checkpoint = random_dia(config)
    # Float32 products in full: dia-ort's CUDA sessions have TF32 off, too.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_default_dtype(getattr(torch, dtype))  # not .to(): RoPE's tables stay in float32
    with torch.device(device):
        model: Any = DiaForConditionalGeneration(transformers_config(config)).eval()
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
