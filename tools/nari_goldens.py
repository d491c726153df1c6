"""Record what nari-labs' own code generates, for tests/export/test_nari_parity.py.

nari-labs' code is on no package index and pins an old torch, so the tests cannot install it.
A maintainer runs this once against two local clones of https://github.com/nari-labs/dia, the last
commit that ran the first release's weights (2811af1) and a commit that runs Dia-1.6B-0626
(876125e), in an environment with torch, pydantic, safetensors and huggingface_hub::

    python tools/nari_goldens.py --first CLONE_AT_2811af1 --head CLONE_AT_876125e \
        --output tests/goldens/

Each release's file holds the cases (JSON), every utterance's codes exactly as ``generate`` returns
them, the audio prompts, and the logits of two steps of one case, to tell a wrong model from a
wrong sampling rule. The weights are random and come from a seed (tests/support/nari_checkpoint.py).
Decoding is greedy, so a sampler's random numbers play no part.

One deliberate difference from both commits: their ``_prepare_audio_prompt`` builds the grid of
forced tokens one row short, so that the model generates the cell at step ``prompt frames + 15`` of
the last channel, whose delayed content (the last prompt frame, or BOS without a prompt) is known.
Hugging Face transformers forces that cell, and so does dia-ort. :func:`restore_forced_row` makes
the grid a row longer; nothing else is changed.

A golden is only of use if rounding cannot flip it: the script fails where the choice of any token
hung on less than ``MIN_MARGIN``. It also fails unless utterances end both ways.
"""

import argparse
import importlib
import json
import sys
import tempfile
import types
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.nari_checkpoint import (
    CHANNELS,
    DELAY_PATTERN,
    EOS,
    Release,
    save_tiny_checkpoint,
    tiny_state_dict,
    weights_digest,
)

SEEDS: dict[Release, int] = {"first": 71, "0626": 130}
PROMPT_SEED = 0
TOP_K = 45  # upstream's default cfg_filter_top_k
MIN_MARGIN = 1e-4
LOGITS_CHANNELS = [0, 8]

LogitsArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One call of ``generate``; several texts make a batch."""

    name: str
    texts: list[str]
    cfg_scale: float
    max_tokens: int
    prompt_frames: int = 0


FULL_TEXT = (  # TEXT_LENGTH bytes once the tags are single bytes: no padding
    "[S1] This line is as long as the model's text may ever be, to the byte, "
    "so that no padding stands behind it. [S2] And not a byte more."
)
CASES = [
    Case("two speakers", ["[S1] Hello there. [S2] Hi! How are you?"], 3.0, 360),
    Case("no guidance", ["[S1] Every word counts, and so does the silence between."], 0.0, 340),
    Case("accents", ["[S1] Déjà vu, naïve façade. [S2] Ça va?"], 1.0, 200),
    Case("CJK", ["[S2] 你好,世界。[S1] こんにちは。"], 3.0, 200),
    Case("prompt of 20", ["[S1] The voice before me. [S2] And after."], 3.0, 160, 20),
    Case("prompt of 37, no guidance", ["[S1] As I was saying,"], 0.0, 160, 37),
    Case("prompt of 37, guidance 1", ["[S1] As I was saying,"], 1.0, 120, 37),
    Case(
        "batch",
        ["[S1] Short.", FULL_TEXT, "[S1] A line of middling length. [S2] Oh!"],
        3.0,
        160,
    ),
    Case("batch, guidance 1", ["[S2] Noch ein Wörtchen.", "[S1] Yes. [S2] No."], 1.0, 120),
]
LOGITS_CASE = "two speakers"


@dataclass(frozen=True)
class Utterance:
    """What ``generate`` returned for one text, and how."""

    codes: npt.NDArray[np.int64]
    end: str
    margin: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=Path, required=True, help="a clone at 2811af1")
    parser.add_argument("--head", type=Path, required=True, help="a clone at 876125e")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    checkouts: dict[Release, Path] = {"first": arguments.first, "0626": arguments.head}
    for release, checkout in checkouts.items():
        dia = load_dia(checkout, release, SEEDS[release])
        restore_forced_row(dia)
        arrays = record(dia, release, SEEDS[release])
        np.savez_compressed(arguments.output / f"nari_{release}.npz", **arrays)


def load_dia(checkout: Path, release: Release, seed: int) -> Any:
    """nari-labs' Dia, from that clone, with the tiny checkpoint of that seed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "dia"]:
        del sys.modules[name]
    # Imported at the top of their model.py, used only to read audio files.
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    sys.path.insert(0, str(checkout))
    dia_class = importlib.import_module("dia.model").Dia
    sys.path.remove(str(checkout))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_checkpoint(folder, release, seed)
        device = torch.device("cpu")
        if release == "0626":
            return dia_class.from_pretrained(name, device=device, load_dac=False)
        config, weights = folder / "config.json", folder / "dia-v0_1.pth"
        return dia_class.from_local(str(config), str(weights), device=device, load_dac=False)


def restore_forced_row(dia: Any) -> None:
    """Make the grid of forced tokens one row longer, by one blank frame after each prompt."""
    prepare = dia._prepare_audio_prompt  # noqa: SLF001
    blank = torch.full((1, CHANNELS), -1)

    def prepare_with_row(prompts: list[torch.Tensor | None]) -> tuple[torch.Tensor, list[int]]:
        longer = [blank if prompt is None else torch.cat([prompt, blank]) for prompt in prompts]
        grid, steps = prepare(longer)
        return grid, [step - 1 for step in steps]

    dia._prepare_audio_prompt = prepare_with_row  # noqa: SLF001


def record(dia: Any, release: Release, seed: int) -> dict[str, npt.NDArray[Any]]:
    """Run every case; the content of that release's file."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    cases, ends, margins = [], set(), []
    for number, case in enumerate(CASES):
        prompt = random_codes(case.prompt_frames)
        utterances, logits = run(dia, release, case, prompt)
        if case.prompt_frames:
            arrays[f"prompt_{number}"] = prompt.astype(np.int16)
        for row, utterance in enumerate(utterances):
            arrays[f"codes_{number}_{row}"] = utterance.codes.astype(np.int16)
            ends.add(utterance.end)
            margins.append(utterance.margin)
            print(
                f"{release:5} {case.name:26} {len(utterance.codes):4} frames, "
                f"end by {utterance.end:6}, margin {utterance.margin:.1e}"
            )
        if case.name == LOGITS_CASE:
            arrays |= two_steps(utterances[0].codes, logits)
        cases.append(asdict(case) | {"ends": [utterance.end for utterance in utterances]})
    if min(margins) < MIN_MARGIN or ends != {"eos", "length"}:
        sys.exit(f"{release}: smallest margin {min(margins):.1e}, ends {ends}: take another seed")
    about = {
        "release": release,
        "seed": seed,
        "weights_sha256": weights_digest(tiny_state_dict(release, seed)),
        "smallest_margin": min(margins),
        "logits_case": LOGITS_CASE,
        "logits_channels": LOGITS_CHANNELS,
        "cases": cases,
    }
    return arrays | {"about": np.array(json.dumps(about, ensure_ascii=False))}


def run(
    dia: Any, release: Release, case: Case, prompt: npt.NDArray[np.int64]
) -> tuple[list[Utterance], LogitsArray]:
    """Generate one case.

    Returns:
        The utterances, and all logits: (steps, texts, 2, channels, vocab), unconditional first.
    """
    history: list[torch.Tensor] = []
    decode_step = dia.model.decoder.decode_step

    def decode_and_keep(*arguments: Any) -> torch.Tensor:
        logits = decode_step(*arguments)
        history.append(logits[:, -1])
        return logits

    dia.model.decoder.decode_step = decode_and_keep
    try:
        output = dia.generate(
            case.texts if len(case.texts) > 1 else case.texts[0],
            max_tokens=case.max_tokens,
            cfg_scale=case.cfg_scale,
            temperature=0.0,
            cfg_filter_top_k=TOP_K,
            audio_prompt=torch.from_numpy(prompt) if case.prompt_frames else None,
        )
    finally:
        dia.model.decoder.decode_step = decode_step
    logits = torch.stack(history).unflatten(1, (-1, 2)).numpy()
    outputs = output if len(case.texts) > 1 else [output]
    longest = case.max_tokens - max(DELAY_PATTERN) - 1 - case.prompt_frames
    utterances = [
        Utterance(
            codes,
            "length" if len(codes) == longest else "eos",
            decision_margin(release, logits[:, row], case.cfg_scale, len(codes)),
        )
        for row, codes in enumerate(outputs)
    ]
    return utterances, logits


def random_codes(frames: int) -> npt.NDArray[np.int64]:
    """An audio prompt, (frames, channels)."""
    return np.random.RandomState(PROMPT_SEED).randint(0, 1024, (frames, CHANNELS), dtype=np.int64)


def decision_margin(release: Release, logits: LogitsArray, cfg_scale: float, frames: int) -> float:
    """By how much the closest decision of an utterance was taken.

    Args:
        release: Whose rules chose the tokens.
        logits: (steps, 2, channels, vocab), unconditional first; the first step predicts the
            utterance's first frame of channel 0.
        cfg_scale: Guidance.
        frames: Frames in the utterance. Predictions that an end or a prompt overrode don't count.

    Returns:
        The smallest distance, in logits, from any choice to a different one.
    """
    uncond, cond = logits[:, 0], logits[:, 1]
    guided = cond + np.float32(cfg_scale) * (cond - uncond)
    margins = _first_margins(guided) if release == "first" else _0626_margins(cond, guided)
    frame = np.arange(len(logits))[:, None] - np.array(DELAY_PATTERN)
    kept = (frame >= 0) & (frame < frames)
    kept[frames, 0] = True  # the end
    return float(margins[kept].min())


def _barred(scores: LogitsArray) -> LogitsArray:
    """Only codes, and in channel 0 EOS, may be chosen."""
    allowed = scores.copy()
    allowed[:, 0, EOS + 1 :] = -np.inf
    allowed[:, 1:, EOS:] = -np.inf
    return allowed


def _lead(scores: LogitsArray) -> LogitsArray:
    """Best minus second best over the last axis."""
    second, best = np.moveaxis(np.partition(scores, -2)[..., -2:], -1, 0)
    return best - second


def _first_margins(guided: LogitsArray) -> LogitsArray:
    """(steps, channels): the guided logits decide, EOS scaled by 0.8."""
    scores = _barred(guided)
    scores[:, 0, EOS] *= np.float32(0.8)
    return _lead(scores)


def _0626_margins(cond: LogitsArray, guided: LogitsArray) -> LogitsArray:
    """(steps, channels): the conditional logits decide among the guided top-k.

    A choice also turns if the winner leaves the top-k, or a token that would win enters.
    """
    ranked = np.sort(guided)
    last_in, first_out = ranked[..., -TOP_K, None], ranked[..., -TOP_K - 1, None]
    scores = np.where(guided >= last_in, _barred(cond), -np.inf)
    winner = scores.argmax(-1, keepdims=True)
    to_leave = np.take_along_axis(guided, winner, -1) - first_out
    rivals = (guided < last_in) & (_barred(cond) > scores.max(-1, keepdims=True))
    to_enter = last_in - np.where(rivals, guided, -np.inf).max(-1, keepdims=True)
    return np.minimum(_lead(scores), np.minimum(to_leave, to_enter)[..., 0])


def two_steps(codes: npt.NDArray[np.int64], logits: LogitsArray) -> dict[str, npt.NDArray[Any]]:
    """The first step's logits and those of a step with a long cache, of some channels."""
    steps = np.array([0, len(codes) - 1])
    return {"logits_steps": steps, "logits": logits[steps][:, 0][:, :, LOGITS_CHANNELS]}


if __name__ == "__main__":
    main()
