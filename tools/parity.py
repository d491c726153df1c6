"""Hold a full-size export against transformers: greedy codes, token for token.

    python tools/parity.py --folder /tmp/parity

Makes a Dia of 1.6B random parameters in transformers, saves it (6.4 GB), exports it in fp32 (6.8 GB
more), and lets both speak the same script greedily. Needs the `dev` group, 8 GB of memory and some
ten minutes. The tests do the same with small models.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

TEXT = "[S1] Hello, how are you? [S2] Quite well, thank you (laughs). [S1] Good to hear."
CFG_SCALE = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, required=True, help="for checkpoint, model and codes"
    )
    parser.add_argument("--max-tokens", type=int, default=330)
    parser.add_argument("--side", choices=("transformers", "dia-ort"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side = speak_transformers if arguments.side == "transformers" else speak_dia_ort
        side(arguments.folder, arguments.max_tokens)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for side in ("transformers", "dia-ort"):  # one after the other, each in memory alone
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--side", side], check=True)
    want = np.load(arguments.folder / "transformers.npy")
    got = np.load(arguments.folder / "dia-ort.npy")
    same = want.shape == got.shape and bool((want == got).all())
    verdict = "equal" if same else "NOT equal"
    print(f"{len(want)} frames, {len(np.unique(want))} different codes: {verdict}")
    if not same:
        frames = min(len(want), len(got))
        first = np.flatnonzero((want[:frames] != got[:frames]).any(axis=1))
        sys.exit(f"they part at frame {first[0] if len(first) else frames}")


def speak_transformers(folder: Path, max_tokens: int) -> None:
    import torch
    from transformers import DiaConfig, DiaForConditionalGeneration

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.transformers_dia import generate_codes

    torch.manual_seed(0)
    model = DiaForConditionalGeneration(DiaConfig()).eval()
    with torch.no_grad():
        model.logits_dense.weight[1024] = 0  # EOS of channel 0 is never the best: it does not end
        model.logits_dense.weight *= 4  # far from ties
        for name, weight in model.named_parameters():
            if "q_proj" in name:  # attention so sharp that rounding grows from layer to layer
                weight.mul_(0.3)
    model.save_pretrained(folder / "checkpoint")
    (codes,) = generate_codes(model, [TEXT], cfg_scale=CFG_SCALE, max_tokens=max_tokens)
    np.save(folder / "transformers.npy", codes)


def speak_dia_ort(folder: Path, max_tokens: int) -> None:
    from dia_export import export
    from dia_ort import Dia, GenerationConfig

    model = export(
        folder / "checkpoint", "full-random", dtype="fp32", output=folder / "model", force=True
    ).folder
    config = GenerationConfig(temperature=0, cfg_scale=CFG_SCALE, max_tokens=max_tokens)
    np.save(folder / "dia-ort.npy", Dia.load(model, provider="cpu").generate_codes(TEXT, config))


if __name__ == "__main__":
    main()
