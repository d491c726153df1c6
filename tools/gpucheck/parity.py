"""Greedy codes against transformers on the same device: where they part, and how far logits are.

Both sides have the same random weights and go through the runtime's own loop: transformers stands
in it as another decoder. So what parts them is the forward pass alone.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.apart import run_apart
from dia_ort import GenerationConfig
from dia_ort.generation import Utterance
from dia_ort.graphs import DECODER, ModelSpec
from dia_ort.manifest import read_manifest
from dia_ort.placement import choose_file
from dia_ort.providers import resolve_provider
from dia_ort.sampling import Candidates, SamplingParams, choose
from dia_ort.scheduler import Request, Scheduler
from dia_ort.text import encode_text
from gpucheck.ours import Setup

_TEXT = "[S1] Hello, how are you? [S2] Quite well, thank you (laughs). [S1] Good to hear."
_BARRED = -1e4

Grid = NDArray[np.int64]
Logits = NDArray[np.float32]


def greedy(setup: Setup, folder: Path, model: str, steps: int) -> dict[str, Any]:
    """Speak the same script greedily on both sides, each in a process of its own.

    Args:
        setup: How ours is run.
        folder: An export of the random model. On the provider it computes in what its weights are
            stored in: transformers is given that dtype.
        model: The random model's name.
        steps: Decoder steps; the end of speech is barred.

    Returns:
        The figures of :func:`compare`, and transformers' ``dtype``.
    """
    manifest = read_manifest(folder)
    dtype = choose_file(manifest, DECODER, resolve_provider(setup.provider)).compute
    device = "cuda" if setup.provider == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = Path(scratch) / "ours.npz", Path(scratch) / "theirs.npz"
        arguments = (model, dtype, device, manifest.model, steps, theirs)
        run_apart("gpucheck.parity_reference:speak", *arguments)
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
    speak_greedily(dia.open_decoder(1), dia.encode_tokens, dia.manifest.model, steps, path)
    return {}


def speak_greedily(
    decoder: Any,
    encode: Callable[[Grid], Sequence[Any]],
    model: ModelSpec,
    steps: int,
    path: Path,
) -> None:
    """Speak with a decoder of one slot, and save the tokens and logits of every step.

    Args:
        decoder: As the scheduler wants it.
        encode: A script's tokens to what the decoder's ``set_text`` takes.
        model: Tokens and rules.
        steps: How many.
        path: Of the file.
    """
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
        self._eos, self._release = model.eos_token_id, model.release

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def choose(self, tokens: Grid, positions: Grid, params: SamplingParams) -> Candidates:
        logits: Logits = self._decoder.step(tokens, positions).copy()
        self.tokens.append(tokens[0].copy())
        self.logits.append(logits[0].copy())
        logits[:, :, 0, self._eos :] = _BARRED
        rules = {"release": self._release, "eos_token_id": self._eos}
        return choose(logits[:, 0], logits[:, 1], params, **rules)
