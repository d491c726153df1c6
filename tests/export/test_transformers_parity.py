"""Token for token what transformers generates, from an exported graph without torch."""

import numpy as np
import pytest
import torch
from transformers import DacConfig, DacModel, DiaFeatureExtractor

from dia_export import export
from dia_models.random_weights import TINY_DAC
from dia_ort import Dia, GenerationConfig, Voice
from support.traces import export_quickly
from support.transformers_dia import generate_codes, tiny_model

TEXTS = {
    "short": "[S1] Hi.",
    "dialogue": "[S1] Hello, how are you? [S2] Quite well, thank you (laughs). [S1] Good.",
    "not ascii": "[S2] Grüße aus Zürich, 你好.",
}
PROMPT = np.random.default_rng(5).integers(0, 1024, (25, 9))


@pytest.fixture(scope="module")
def codec():
    """A small random DAC as transformers has it; of the tiny one's shapes, whose trace is there."""
    torch.manual_seed(5)
    config = DacConfig(
        encoder_hidden_size=TINY_DAC.encoder_dim,
        downsampling_ratios=list(TINY_DAC.encoder_rates),
        decoder_hidden_size=TINY_DAC.decoder_dim,
        hidden_size=TINY_DAC.latent_dim,
        n_codebooks=TINY_DAC.num_codebooks,
        sampling_rate=TINY_DAC.sample_rate,
    )
    return DacModel(config).eval()


@pytest.fixture(scope="module")
def pair(tmp_path_factory, codec):
    """transformers' model, and the same exported."""
    folder = tmp_path_factory.mktemp("parity")
    model = tiny_model(seed=3, eos_gain=0)
    model.save_pretrained(folder / "checkpoint")
    codec.save_pretrained(folder / "codec")
    result = export_quickly(
        folder / "checkpoint", folder / "codec", dtype="fp32", output=folder / "model", verify=False
    )
    return model, Dia.load(result.folder, provider="cpu", threads=1)


def greedy(cfg_scale, max_tokens):
    return GenerationConfig(temperature=0, cfg_scale=cfg_scale, max_tokens=max_tokens)


@pytest.mark.parametrize("cfg_scale", [3.0, 0.0])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_greedy_codes(pair, text, cfg_scale):
    model, dia = pair
    (want,) = generate_codes(model, [text], cfg_scale=cfg_scale, max_tokens=330)
    got = dia.generate_codes(text, greedy(cfg_scale, 330))
    assert len(want) >= 300
    assert len(np.unique(want)) > 100  # lively, not one code for ever
    np.testing.assert_array_equal(got, want)


@pytest.mark.filterwarnings("ignore:the voice has no transcript")
@pytest.mark.parametrize("cfg_scale", [3.0, 0.0])
def test_greedy_codes_after_an_audio_prompt(pair, cfg_scale):
    model, dia = pair
    text = TEXTS["dialogue"]
    (want,) = generate_codes(model, [text], cfg_scale=cfg_scale, max_tokens=350, prompt=PROMPT)
    got = dia.generate_codes(text, greedy(cfg_scale, 350), Voice(codes=PROMPT))
    assert len(want) >= 300
    np.testing.assert_array_equal(got, want)


def test_a_voice_made_of_audio(pair, codec):
    """From samples to samples, as transformers does it in its own three steps."""
    model, dia = pair
    samples = speech_like(seconds=1.13)
    prepare = DiaFeatureExtractor(sampling_rate=44_100)
    audio = prepare(samples, sampling_rate=44_100, return_tensors="pt")["input_values"]
    with torch.no_grad():
        prompt = codec.encode(audio).audio_codes[0].T.numpy()
    voice = Voice.from_audio(dia, samples, TEXTS["short"], sample_rate=44_100)
    assert len(np.unique(prompt)) > 100
    np.testing.assert_array_equal(voice.codes, prompt)

    text = TEXTS["dialogue"]
    script = f"{TEXTS['short']} {text}"
    (want,) = generate_codes(model, [script], cfg_scale=3.0, max_tokens=300, prompt=prompt)
    got = dia.generate(text, greedy(3.0, 300), voice)
    assert len(want) > 150
    np.testing.assert_array_equal(got.codes, want)
    with torch.no_grad():
        samples = codec.decode(audio_codes=torch.from_numpy(want.T[None])).audio_values[0]
    np.testing.assert_allclose(got.samples, samples.numpy(), atol=1e-4)


def speech_like(seconds):
    """Tones and noise that come and go."""
    time = np.arange(int(seconds * 44_100)) / 44_100
    noise = np.random.default_rng(2).normal(0, 0.1, len(time))
    tones = 0.3 * np.sin(40 * time + 900 * np.sin(3 * time))
    return ((tones + noise) * np.sin(9 * time) ** 2).astype(np.float32)


def test_greedy_codes_of_a_batch(pair):
    model, dia = pair
    wanted = generate_codes(model, list(TEXTS.values()), cfg_scale=3.0, max_tokens=330)
    for audio, want in zip(
        dia.generate_batch(list(TEXTS.values()), greedy(3.0, 330)), wanted, strict=True
    ):
        assert audio.finish_reason == "length"
        np.testing.assert_array_equal(audio.codes, want)


def test_end_of_speech(tmp_path):
    model = tiny_model(seed=3, eos_gain=2)
    model.save_pretrained(tmp_path / "checkpoint")
    result = export(
        tmp_path / "checkpoint", "tiny-random", dtype="fp32", output=tmp_path / "m", verify=False
    )
    dia = Dia.load(result.folder, provider="cpu", threads=1)
    ends = []
    for text in TEXTS.values():
        (want,) = generate_codes(model, [text], cfg_scale=3.0, max_tokens=330)
        audio = dia.generate(text, greedy(3.0, 330))
        np.testing.assert_array_equal(audio.codes, want)
        ends.append(audio.finish_reason)
    assert "eos" in ends


def test_logits(pair):
    """Within 1e-4, at every step of a cache of 200, conditional and unconditional."""
    model, dia = pair
    grid = torch.from_numpy(np.random.default_rng(1).integers(0, 1024, (1, 200, 9))).repeat(2, 1, 1)
    text = np.frombuffer(b"\x01 Some words.", np.uint8).astype(np.int64)
    tokens = torch.tensor(np.stack([text, np.zeros_like(text)]))
    with torch.no_grad():
        want = model(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            decoder_input_ids=grid,
        ).logits.reshape(2, 9, 200, 1028)
    batch = dia.open_decoder(1)
    batch.set_text(0, dia.encode_tokens(text), len(text))
    batch.prefill(0, grid[0, :64].numpy(), 0)
    batch.prefill(0, grid[0, 64:150].numpy(), 64)
    for step in range(150, 200):
        logits = batch.step(grid[:1, step].numpy(), np.array([step]))
        np.testing.assert_allclose(logits[0], want[:, :, step].numpy(), atol=1e-4)
