"""The exporter's cases, run by the runtime: any dtype, captured steps, buffers on the device.

The gate of :mod:`dia_export.verify` runs a bare graph on NumPy's arrays. This runs what users do:
the text encoder, the prefill and the steps, of which the logits are compared.
"""

import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.artifacts import is_current, mark_current
from dia_export.exporter import open_sources
from dia_export.verify import TOLERANCES, Reference, guided, kl_divergence, shared_candidates
from dia_ort import Dia, GenerationConfig
from dia_ort.graphs import DECODER, ENCODER
from dia_ort.sampling import SamplingParams, choose
from gpucheck.ours import Setup

_CHOICE_ERROR = 1e-3
"""Guided logits are some 10 large, and float32's."""


@dataclass(frozen=True, slots=True)
class _Spoken:
    """Scripts that are spoken at once, with given tokens, and what PyTorch makes of them.

    Attributes:
        scripts: (text,) each.
        tokens: (scripts, steps, channels).
        prefill: How many of the steps are known before.
        logits: (2 * scripts, steps, channels, vocabulary), conditional rows first.
    """

    scripts: list[NDArray[np.int64]]
    tokens: NDArray[np.int64]
    prefill: int
    logits: NDArray[np.float32]


def gate(setup: Setup, folder: Path, model: str) -> dict[str, Any]:
    """Hold an export of a random model against PyTorch in float32.

    Returns:
        ``error``, ``kl`` and ``overlap``, as the gate has them, over the steps after the prefill;
        ``choice``: the largest difference of the candidates' guided logits from NumPy's choice of
        the same logits; ``allowed``: the gate's limits for the dtype; ``passes``.
    """
    dia = setup.load(folder)
    errors, kls, overlaps, choices = [], [], [], []
    for case in _kept_cases(folder.parent / f"{model}-cases", model):
        want = torch.from_numpy(case.logits[:, case.prefill :])
        logits, choice = _run(dia, case)
        have = torch.from_numpy(logits)
        choices.append(choice)
        errors.append(float(((have - want).square().mean() / want.square().mean()).sqrt()))
        kls.append(kl_divergence(want, have).flatten())
        overlaps.append(shared_candidates(guided(want), guided(have)).flatten())
    figures = {
        "error": max(errors) if np.isfinite(errors).all() else float("nan"),
        "kl": float(torch.cat(kls).mean()),
        "overlap": float(torch.cat(overlaps).mean()),
        "choice": float(np.max(choices)),
    }
    limits = TOLERANCES[dia.manifest.dtype]
    passes = (
        figures["error"] <= limits.error
        and figures["kl"] <= limits.kl
        and figures["overlap"] >= limits.overlap
        and figures["choice"] <= _CHOICE_ERROR
    )
    return {**figures, "allowed": asdict(limits), "passes": passes}


def _kept_cases(folder: Path, model: str) -> list[_Spoken]:
    """The cases, from the folder if the code as it is has put them there: PyTorch takes long."""
    file = folder / "decoder.pickle"
    if not is_current(folder):
        folder.mkdir(exist_ok=True)
        file.write_bytes(pickle.dumps(list(_cases(model))))
        mark_current(folder)
    cases: list[_Spoken] = pickle.loads(file.read_bytes())
    return cases


def _cases(model: str) -> Iterator[_Spoken]:
    reference = Reference(*open_sources(model, None, None, 0))
    texts = reference.cases(ENCODER)
    for text, case in zip(texts, reference.cases(DECODER), strict=True):
        count = len(text.inputs["tokens"]) // 2  # the others are unconditional
        scripts = [
            tokens[:length]
            for tokens, length in zip(
                text.inputs["tokens"][:count], text.inputs["text_lengths"], strict=False
            )
        ]
        yield _Spoken(scripts, case.inputs["tokens"][:count], case.prefill, case.outputs["logits"])


def _run(dia: Dia, case: _Spoken) -> tuple[NDArray[np.float32], float]:
    """Logits of the steps after the prefill, shaped as the case has them; and ``choice``."""
    decoder = dia.open_decoder(len(case.scripts))
    for slot, script in enumerate(case.scripts):
        decoder.set_text(slot, dia.encode_tokens(script), len(script))
        decoder.prefill(slot, case.tokens[slot, : case.prefill], 0)
    logits, model, choice = [], dia.manifest.model, np.float32(0)
    params = SamplingParams.stack([GenerationConfig()] * len(case.scripts))
    for position in range(case.prefill, case.tokens.shape[1]):
        step = case.tokens[:, position], np.full(len(case.scripts), position)
        paired = decoder.step(*step).copy()
        logits.append(np.concatenate([paired[:, 0], paired[:, 1]]))
        chosen = decoder.choose(*step, params)  # the same step once more
        want = choose(
            *(paired[:, 0], paired[:, 1], params),
            release=model.release,
            eos_token_id=model.eos_token_id,
        )
        own = np.take_along_axis(paired[:, 0], chosen.tokens, axis=-1)
        for have, wanted in ((chosen.guided, want.guided), (chosen.cond, own)):
            choice = np.maximum(choice, np.abs(have - wanted).max())  # NaN stays
    return np.stack(logits, axis=1), float(choice)
