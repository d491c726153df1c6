"""Code for code what nari-labs' own programs generate, for both generations of weights.

The goldens come from tools/nari_goldens.py, which also says in what one cell they differ from
nari-labs' code as it stands. The checkpoints are random, from a seed, in nari-labs' two layouts.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dia_export import export
from dia_models import open_dia
from dia_models.dia import Decoder, TextEncoder, load_weights
from dia_ort import Dia, GenerationConfig, Voice
from support.nari_checkpoint import (
    BOS,
    DELAY_PATTERN,
    save_tiny_checkpoint,
    tiny_state_dict,
    weights_digest,
)

RELEASES = ("first", "0626")


def read_golden(release):
    with np.load(Path(__file__).parents[1] / "goldens" / f"nari_{release}.npz") as file:
        return dict(file)


ARRAYS = {release: read_golden(release) for release in RELEASES}
ABOUT = {release: json.loads(str(ARRAYS[release]["about"])) for release in RELEASES}


def cases(*, batch):
    """(release, number of the case) of the single or of the batched cases."""
    return [
        pytest.param(release, number, id=f"{release}-{case['name']}")
        for release in RELEASES
        for number, case in enumerate(ABOUT[release]["cases"])
        if (len(case["texts"]) > 1) == batch
    ]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """By release, the folder of its tiny checkpoint."""

    @functools.cache
    def save(release):
        folder = tmp_path_factory.mktemp(f"nari-{release}")
        save_tiny_checkpoint(folder, release, ABOUT[release]["seed"])
        return folder

    return save


@pytest.fixture(scope="session")
def exported(checkpoint, tmp_path_factory):
    """By release, its tiny checkpoint exported and loaded."""

    @functools.cache
    def load(release):
        result = export(
            model=checkpoint(release),
            codec="tiny-random",
            dtype="fp32",
            output=tmp_path_factory.mktemp(f"exported-{release}") / "model",
            verify=False,
        )
        return Dia.load(result.folder, provider="cpu", threads=1)

    return load


def settings(case):
    return GenerationConfig(
        temperature=0.0, cfg_scale=case["cfg_scale"], max_tokens=case["max_tokens"]
    )


@pytest.mark.parametrize("release", RELEASES)
def test_checkpoint_is_the_one_the_goldens_were_made_with(release):
    weights = tiny_state_dict(release, ABOUT[release]["seed"])
    assert weights_digest(weights) == ABOUT[release]["weights_sha256"]


@pytest.mark.filterwarnings("ignore:the voice has no transcript")
@pytest.mark.parametrize(("release", "number"), cases(batch=False))
def test_codes(exported, release, number):
    case, arrays = ABOUT[release]["cases"][number], ARRAYS[release]
    voice = None
    if case["prompt_frames"]:
        voice = Voice(codes=arrays[f"prompt_{number}"].astype(np.int64), transcript="")
    codes = exported(release).generate_codes(case["texts"][0], settings(case), voice=voice)
    np.testing.assert_array_equal(codes, arrays[f"codes_{number}_0"])


@pytest.mark.parametrize(("release", "number"), cases(batch=True))
def test_codes_of_a_batch(exported, release, number):
    case, arrays = ABOUT[release]["cases"][number], ARRAYS[release]
    audios = exported(release).generate_batch(case["texts"], settings(case))
    assert [audio.finish_reason for audio in audios] == case["ends"]
    for row, audio in enumerate(audios):
        np.testing.assert_array_equal(audio.codes, arrays[f"codes_{number}_{row}"])


def test_goldens_say_enough():
    """The rules on ends and on long utterances are only tested if the goldens have some."""
    for release in RELEASES:
        frames = [len(codes) for name, codes in ARRAYS[release].items() if name.startswith("codes")]
        ends = {end for case in ABOUT[release]["cases"] for end in case["ends"]}
        assert sum(count >= 300 for count in frames) >= 2
        assert ends == {"eos", "length"}


@pytest.mark.parametrize("release", RELEASES)
def test_logits_in_torch(checkpoint, release):
    """Tells a wrong model from wrong rules, should the codes above ever differ."""
    about, arrays = ABOUT[release], ARRAYS[release]
    names = [case["name"] for case in about["cases"]]
    number = names.index(about["logits_case"])
    steps = arrays["logits_steps"]
    tokens = delayed(arrays[f"codes_{number}_0"], steps[-1] + 1)
    logits = run_torch(checkpoint(release), about["cases"][number]["texts"][0], tokens)
    np.testing.assert_allclose(
        logits[:, steps][:, :, about["logits_channels"]].swapaxes(0, 1),
        arrays["logits"],
        rtol=0,
        atol=5e-5,
    )


def delayed(codes, steps):
    """The tokens that the decoder was fed, (steps, channels): BOS, then the codes, delayed."""
    grid = np.full((steps, len(DELAY_PATTERN)), BOS)
    for channel, delay in enumerate(DELAY_PATTERN):
        grid[delay + 1 :, channel] = codes[: max(0, steps - delay - 1), channel]
    return grid


@torch.inference_mode()
def run_torch(folder, text, tokens):
    """All logits of forced tokens, (2, steps, channels, vocab), unconditional first.

    Both rows are given a text, as upstream has it.
    """
    opened = open_dia(folder)
    config, steps = opened.config, len(tokens)
    encoder, decoder = TextEncoder(config), Decoder(config)
    load_weights(encoder, opened.weights, "encoder.")
    load_weights(decoder, opened.weights, "decoder.")
    script = text.encode().replace(b"[S1]", b"\x01").replace(b"[S2]", b"\x02")
    ids = torch.tensor([[0] * len(script), list(script)])
    lengths = torch.full((2,), len(script), dtype=torch.int32)
    sizes = config.decoder
    cache = torch.zeros(2, sizes.num_kv_heads, steps, sizes.head_dim)
    logits, *_ = decoder(
        torch.from_numpy(tokens).expand(2, -1, -1),
        torch.full((2,), steps - 1, dtype=torch.int32),
        torch.tensor([steps], dtype=torch.int32),
        lengths,
        torch.zeros(sizes.num_layers, sizes.cross_num_heads * sizes.cross_head_dim),
        encoder(ids, lengths),
        [cache] * (2 * sizes.num_layers),
    )
    return logits.numpy()
