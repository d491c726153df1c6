"""The demo on the WebGPU provider, where its package and a GPU (or a driver in software) are."""

import numpy as np
import pytest

from dia_ort import Dia, Engine, GenerationConfig
from dia_ort.errors import ProviderError
from dia_ort.providers import Provider, open_session

TOKENS = np.random.default_rng(0).integers(0, 1024, (60, 9))


@pytest.fixture(scope="module")
def on_webgpu():
    try:
        return Dia.load("demo", provider="webgpu")
    except ProviderError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def on_cpu(on_webgpu):
    """The same decoder on the CPU, which widens it to float32."""
    dia = Dia.load("demo", provider="cpu")
    info = dia._decoder_info = on_webgpu._decoder_info
    path = dia.artifact.folder / info.file
    dia._decoder = open_session(path, dia.manifest.spec(info), Provider("cpu"), None)
    return dia


def logits(dia):
    """Of two utterances: one goes on for 50 steps, the other joins with a prompt, and stays."""
    batch, script = dia.open_decoder(2), np.arange(40, 75)
    batch.set_text(0, dia.encode_tokens(script), len(script))
    steps = [batch.step(TOKENS[[at]], np.array([at]))[0].copy() for at in range(45)]
    batch.set_text(1, dia.encode_tokens(script[:20]), 20)
    batch.prefill(1, TOKENS[:40], 0)
    for position in range(40, 45):
        tokens = np.stack([TOKENS[position + 5], TOKENS[position]])
        steps += batch.step(tokens, np.array([position + 5, position])).copy().tolist()
    batch.move(1, 0)
    steps.append(batch.step(TOKENS[45:46], np.array([45]))[0].copy())
    return np.array(steps)


def test_steps_are_those_of_the_cpu(on_webgpu, on_cpu):
    have, want = logits(on_webgpu), logits(on_cpu)
    errors = np.sqrt(((have - want) ** 2).mean((1, 2, 3)) / (want**2).mean((1, 2, 3)))
    assert errors.max() < 0.02  # half precision throughout


def test_an_engine_speaks_and_decodes_at_once(on_webgpu):
    """The provider ends the process when two threads are at it."""
    config = GenerationConfig(seed=7, max_tokens=40)
    with Engine(on_webgpu, max_batch=2) as engine:
        handles = [engine.submit(text, config) for text in ("[S1] yes.", "[S2] no.") * 2]
        assert all(len(chunk.samples) for handle in handles for chunk in handle.audio())


def test_audio_is_that_of_the_cpu(on_webgpu, on_cpu):
    samples = on_cpu.decode_codes(TOKENS)
    np.testing.assert_allclose(on_webgpu.decode_codes(TOKENS), samples, atol=1e-5)
    codes = on_cpu.encode_audio(samples, on_cpu.sample_rate)
    same = on_webgpu.encode_audio(samples, on_cpu.sample_rate) == codes
    assert same.mean() > 0.99
