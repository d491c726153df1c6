"""Dia on the built-in model: loading, speaking, voices and the codec."""

import gc
import importlib
import logging
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dia_ort import Dia, GenerationConfig, Voice, checks, providers
from dia_ort.artifacts import find_artifact
from dia_ort.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    InvalidAudioError,
    InvalidConfigError,
    InvalidTextError,
    NumericalError,
    ProviderError,
)
from dia_ort.providers import Provider, open_session
from dia_ort.text import encode_text
from support.hash_decoder import SPOILT, HashDia

TEXT = "[S1] hello world. [S2] this is dia."
SHORT = GenerationConfig(seed=3, max_tokens=40)
RATE, HOP, CHANNELS = 44100, 512, 9


@pytest.fixture(scope="module")
def dia():
    return Dia.load("demo", provider="cpu")


@pytest.fixture(scope="module")
def voice(dia):
    """The demo's own voice, 40 frames of it."""
    config = GenerationConfig(seed=1, max_tokens=57)
    return Voice(dia.generate_codes("[S1] hello world.", config), "[S1] hello world.")


# Loading


@pytest.mark.parametrize("name", ["tpu", "CPU", "", "CPUExecutionProvider"])
def test_unknown_providers(name):
    with pytest.raises(InvalidConfigError, match="take auto, or one that is here: cpu"):
        Dia.load("demo", provider=name)


@pytest.mark.parametrize("threads", [0, -1, 1025, "2", 1.5, True])
def test_numbers_of_threads_that_are_none(threads):
    with pytest.raises(InvalidConfigError, match=f"threads is {threads!r}: .* from 1 to 1024"):
        Dia.load("demo", provider="cpu", threads=threads)


def test_more_threads_than_cpus_are_warned_of(monkeypatch):
    monkeypatch.setattr(checks, "usable_cpus", lambda: 1)
    with pytest.warns(UserWarning, match="may use 1 CPUs: .* seem to hang") as warned:
        Dia.load("demo", provider="cpu", threads=2)
    assert {warning.filename for warning in warned} == {__file__}


@pytest.mark.parametrize("model", ["", 3])
def test_what_names_no_model(model):
    with pytest.raises(ArtifactNotFoundError, match="names no model: give a name"):
        Dia.load(model)


def test_a_model_is_shown_in_a_line(dia):
    assert repr(dia) == "Dia('demo', dtype='int8', provider='cpu')"


def test_threads(dia):
    codes = Dia.load("demo", provider="cpu", threads=1).generate_codes(TEXT, SHORT)
    assert np.array_equal(codes, dia.generate_codes(TEXT, SHORT))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("cuda", r"pip uninstall onnxruntime, then pip install 'dia-ort\[gpu\]', with an NVIDIA"),
        ("coreml", r"pip install 'dia-ort\[cpu\]' on macOS"),
    ],
)
def test_providers_that_are_not_there(monkeypatch, name, remedy):
    monkeypatch.setattr(providers, "available_providers", lambda: ["cpu"])
    with pytest.raises(ProviderError, match=rf"\(it has cpu\). To get it: {remedy}"):
        Dia.load("demo", provider=name)


@pytest.mark.parametrize(("there", "taken"), [(["cpu"], "cpu"), (["cpu", "cuda"], "cuda")])
def test_auto_says_what_it_takes(monkeypatch, caplog, there, taken):
    monkeypatch.setattr(providers, "available_providers", lambda: there)
    with caplog.at_level(logging.INFO, "dia_ort"):
        assert providers.resolve_provider("auto").name == taken
    assert f"provider auto takes {taken}" in caplog.text


def test_a_provider_that_does_not_start():
    """onnxruntime falls back to the CPU with a warning; dia-ort does not."""
    if "coreml" in providers.available_providers():
        pytest.skip("CoreML starts here")
    artifact = find_artifact("demo")
    info = artifact.manifest.graphs[0]
    path, spec = artifact.folder / info.file, artifact.manifest.spec(info)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ProviderError, match=r"coreml provider does not start .*dia-ort doctor"):
            open_session(path, spec, Provider("coreml", "cpu"), None)


def test_without_onnxruntime_both_extras_are_named(monkeypatch):
    providers.onnxruntime.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ProviderError, match=r"'dia-ort\[cpu\]', or 'dia-ort\[gpu\]'"):
        Dia.load("demo")
    monkeypatch.undo()
    assert providers.onnxruntime() is importlib.import_module("onnxruntime")


def test_a_graph_of_another_declaration():
    artifact = find_artifact("demo")
    encoder, decoder, *_ = artifact.manifest.graphs
    with pytest.raises(ArtifactError, match="is not the graph of its manifest"):
        open_session(
            artifact.folder / encoder.file,
            artifact.manifest.spec(decoder),
            Provider("cpu", "cpu"),
            1,
        )


# Speaking


def test_the_demo_speaks_and_ends_by_itself(dia):
    audio = dia.generate(TEXT, GenerationConfig(seed=7))
    assert (audio.finish_reason, audio.sample_rate, audio.seed) == ("eos", RATE, 7)
    assert audio.codes.shape[1] == CHANNELS
    assert audio.codes.min() >= 0
    assert audio.codes.max() < 1024
    assert audio.samples.dtype == np.float32
    assert audio.samples.shape == (len(audio.codes) * HOP,)
    assert np.isfinite(audio.samples).all()
    assert 0.5 < audio.duration < 10
    assert 0.01 < np.sqrt(np.mean(audio.samples**2)) < 1


def test_a_seed_makes_the_same_speech_again(dia):
    first = dia.generate(TEXT, GenerationConfig(max_tokens=40))
    again = dia.generate(TEXT, GenerationConfig(max_tokens=40, seed=first.seed))
    other = dia.generate(TEXT, GenerationConfig(max_tokens=40, seed=first.seed ^ 1))
    assert np.array_equal(first.codes, again.codes)
    assert np.array_equal(first.samples, again.samples)
    assert not np.array_equal(first.codes, other.codes)


def test_the_length_is_limited(dia):
    audio = dia.generate(TEXT, SHORT)
    assert audio.finish_reason == "length"
    assert len(audio.codes) == SHORT.max_tokens - 15 - 1


@pytest.mark.parametrize(
    ("max_tokens", "message"),
    [
        (3073, "max_tokens is 3073: this model has 3072 steps. Split the script"),
        (16, "max_tokens is 16, which leaves no step for speech: give at least 17"),
        (1, "max_tokens is 1, which leaves no step for speech"),
    ],
)
def test_limits_that_the_model_does_not_have(dia, max_tokens, message):
    with pytest.raises(InvalidConfigError, match=message):
        dia.generate(TEXT, GenerationConfig(max_tokens=max_tokens))


def test_the_shortest_speech(dia):
    assert len(dia.generate_codes(TEXT, GenerationConfig(max_tokens=17, seed=0))) == 1


@pytest.mark.filterwarnings("ignore:the text has no")
def test_texts_are_checked(dia):
    for text in ("", " ", "[S1]", "[S1] " + "a" * 2000, "[S1] \ud800", "[S1] a\0b"):
        with pytest.raises(InvalidTextError):
            dia.generate(text, SHORT)


def test_a_text_without_speakers_warns(dia):
    for speak in (dia.generate, dia.generate_codes, lambda t, c: dia.generate_batch([t], c)):
        with pytest.warns(UserWarning, match=r"no \[S1\] or \[S2\]") as warned:
            speak("hello", SHORT)
        assert {warning.filename for warning in warned} == {__file__}


def test_a_third_speaker_is_refused(dia):
    for text in ("[S1] hello. [S3] yes.", "[S 3] hello."):
        with pytest.raises(InvalidTextError, match=r"has the tag \[S ?3\]"):
            dia.generate(text, SHORT)


@pytest.mark.parametrize(
    "mark", ["\ufeff[S1] yes.", "[S1] yes. [pause 1s] no.", "[S1] yes. [s2] no."]
)
def test_marks_that_the_model_takes_for_words_are_warned_of(dia, mark):
    with pytest.warns(UserWarning, match="takes for words: dia_ort.narrate reads such marks"):
        dia.start(mark, SHORT)


def test_the_model_gets_texts_as_they_are(dia):
    """As upstream has it: odd brackets, spaces and signs are the model's business."""
    text = " [S1]  hello\u2019s\n(laughs) [x] [S2] 🙂 ... "
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        request = dia._request(text, SHORT, None)
    assert request.text.tolist() == encode_text(text, 1024).tolist()
    assert dia.start("[S1] 🙂", SHORT)


@pytest.mark.filterwarnings("ignore:the text has no")
def test_arguments_of_other_types(dia):
    for speak in (dia.generate, dia.start, dia.stream, dia.generate_codes):
        with pytest.raises(InvalidConfigError, match="config is dict: give a GenerationConfig"):
            speak(TEXT, {"seed": 7})
        with pytest.raises(InvalidAudioError, match=r"give Voice\.load\('low'\)"):
            speak(TEXT, SHORT, "low")
        with pytest.raises(InvalidAudioError, match="voice is ndarray: give a Voice"):
            speak(TEXT, SHORT, np.zeros((40, 9), int))


# Batches


def logits_of(dia, scripts, steps):
    """Of the same steps after each script, (scripts, steps, rows, channels, vocabulary)."""
    decoder = dia.open_decoder(len(scripts))
    for slot, script in enumerate(scripts):
        decoder.set_text(slot, dia.encode_tokens(script), len(script))
    count, logits = len(scripts), []
    for position, tokens in enumerate(steps):
        logits.append(decoder.step(np.tile(tokens, (count, 1)), np.full(count, position)).copy())
    return np.stack(logits, axis=1)


def test_slots_do_not_hear_each_other(dia):
    """Each is what it is alone, bit for bit."""
    scripts = [
        encode_text(text, 1024)
        for text in ("[S1] yes.", "[S1] hello world. [S2] no.", "[S2] hello.")
    ]
    steps = np.random.default_rng(0).integers(0, 1024, (20, CHANNELS))
    steps[0] = 1026
    together = logits_of(dia, scripts, steps)
    alone = np.concatenate([logits_of(dia, [script], steps) for script in scripts])
    assert np.array_equal(together, alone)
    assert not np.array_equal(alone[0, :, 0], alone[1, :, 0])
    assert np.array_equal(alone[0, :, 1], alone[1, :, 1])  # unconditional


@pytest.mark.parametrize("max_batch", [1, 2, 8])
def test_a_batch_is_what_each_is_alone(dia, voice, max_batch):
    texts = ["[S1] yes.", "[S1] this is dia.", "[S2] no."]
    config = GenerationConfig(seed=5, max_tokens=80)
    batch = dia.generate_batch(texts, config, voice, max_batch=max_batch)
    for text, audio in zip(texts, batch, strict=True):
        assert np.array_equal(audio.codes, dia.generate_codes(text, config, voice))


def test_the_decoder_is_kept_from_call_to_call():
    dia = HashDia()
    whole = dia.generate("[S1] a.", SHORT)
    generation = dia.start("[S1] a.", SHORT)
    next(iter(generation))
    assert np.array_equal(dia.generate("[S1] a.", SHORT).codes, whole.codes)
    assert len(dia.decoders) == 2  # one is in use
    del generation
    gc.collect()
    dia.generate_codes("[S1] b.", SHORT)
    assert len(dia.decoders) == 2
    dia.generate_batch(["[S1] a.", "[S1] b."], SHORT)
    assert len(dia.decoders) == 3  # more slots
    assert np.array_equal(dia.generate("[S1] a.", SHORT).codes, whole.codes)
    assert len(dia.decoders) == 3
    with pytest.raises(NumericalError, match="after step 21 are not finite"):
        dia.generate(SPOILT, SHORT)  # who knows what it left
    assert np.array_equal(dia.generate("[S1] a.", SHORT).codes, whole.codes)
    assert len(dia.decoders) == 4


def test_threads_may_share_a_dia(dia):
    config = GenerationConfig(seed=5, max_tokens=60)
    texts = [TEXT, "[S1] yes.", "[S2] no."]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda text: dia.generate_codes(text, config), texts))
    for text, codes in zip(texts, together, strict=True):
        assert np.array_equal(codes, dia.generate_codes(text, config))


def test_a_batch_gives_one_speech_for_each_text(dia):
    texts = ["[S1] hello.", TEXT, "[S2] yes."]
    config = GenerationConfig(seed=11, max_tokens=150)
    audios = dia.generate_batch(texts, config, max_batch=2)
    assert len(audios) == 3
    for audio in audios:
        assert 10 < len(audio.codes) <= 150 - 15 - 1
        assert len(audio.samples) == len(audio.codes) * HOP
        assert audio.seed == 11


def test_batches_that_are_none(dia):
    assert dia.generate_batch([]) == []
    with pytest.raises(InvalidConfigError, match="texts is one str: give a list"):
        dia.generate_batch("[S1] hello.", SHORT)
    with pytest.raises(InvalidConfigError, match="max_batch is 0: give a whole number"):
        dia.generate_batch(["[S1] hello."], SHORT, max_batch=0)


def test_a_smaller_batch_after_a_larger_one_is_smaller():
    dia = HashDia()
    for size in (3, 2, 3):
        dia.generate_batch([f"[S1] {n}." for n in "abcdef"], SHORT, max_batch=size)
        log = dia.decoders[0].log
        assert max(call[1] for call in log if call[0] == "step") == size
        log.clear()
    assert len(dia.decoders) == 1


def test_all_texts_are_checked_before_the_first_is_spoken(dia, monkeypatch):
    monkeypatch.setattr(Dia, "_run", lambda *_: pytest.fail("it was begun"))
    with pytest.raises(InvalidTextError, match=r"^texts\[1\]: the script has no words"):
        dia.generate_batch(["[S1] hello.", "[S2]"], SHORT)


# Step by step


def test_what_is_interrupted_is_kept(dia):
    config = GenerationConfig(seed=3, max_tokens=80)
    whole = dia.generate_codes(TEXT, config)
    generation = dia.start(TEXT, config)
    assert generation.codes.shape == (0, CHANNELS)
    frames = []
    for frame in generation:
        frames.append(frame)
        if len(frames) == 20:
            break
    assert np.array_equal(np.stack(frames), whole[:20])
    assert np.array_equal(generation.codes, whole[:20])
    assert len(dia.decode_codes(generation.codes)) == 20 * HOP
    with pytest.raises(InvalidConfigError, match="has not come to its end"):
        generation.audio()
    frames += generation  # and on
    assert np.array_equal(np.stack(frames), whole)
    assert np.array_equal(generation.audio().codes, whole)
    assert generation.seed == 3


def test_nothing_is_lost_by_an_interrupt_within_a_step(dia, monkeypatch):
    config = GenerationConfig(seed=3, max_tokens=80)
    generation = dia.start(TEXT, config)
    frames = [frame for _, frame in zip(range(10), generation, strict=False)]

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dia_ort.scheduler.draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(generation)
    assert len(generation.codes) >= 10
    assert np.array_equal(generation.codes[:10], np.stack(frames))


# Voices


def test_a_voice_is_gone_on_from(dia, voice):
    config = GenerationConfig(seed=2, max_tokens=100)
    codes = dia.generate_codes("[S1] this is dia.", config, voice)
    assert 0 < len(codes) <= 100 - len(voice.codes) - 15 - 1  # the voice itself is not returned
    assert not np.array_equal(codes, dia.generate_codes("[S1] this is dia.", config))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.full((5, 9), 1024), "codes reach from 1024 to 1024: this codec has 0 to 1023"),
        (np.zeros((5, 8), int), r"shape \(5, 8\): this codec wants \(frames, 9\)"),
        (np.zeros((3056, 9), int), "the voice has 3056 frames, and the model takes at most 3055"),
    ],
)
def test_voices_that_do_not_fit(dia, codes, message):
    with pytest.raises(InvalidAudioError, match=message):
        dia.generate("[S1] hello.", voice=Voice(codes))


def test_a_voice_counts_as_steps(dia, voice):
    least = len(voice.codes) + 17
    config = GenerationConfig(max_tokens=least - 1)
    with pytest.raises(InvalidConfigError, match=f"after the voice's .* give at least {least}, or"):
        dia.generate("[S1] hello.", config, voice)
    assert len(dia.generate("[S1] hello.", GenerationConfig(max_tokens=least), voice).codes) == 1


def test_a_transcript_counts_as_text(dia, voice):
    long = Voice(voice.codes, "[S1] " + "a" * 1000)
    with pytest.raises(InvalidTextError, match=r"\(the voice's transcript, .* is 1105 bytes long"):
        dia.generate("[S1] " + "b" * 100, SHORT, long)


# The codec


@pytest.mark.parametrize(
    ("samples", "rate", "frames"),
    [
        (np.zeros(HOP, np.float32), RATE, 1),
        (np.zeros(HOP + 1, np.float32), RATE, 2),
        (np.zeros(1, np.float32), RATE, 1),
        (np.zeros(8000), 8000, 87),
        (np.zeros((RATE, 2), np.int16), RATE, 87),
        (np.zeros((48000, 6)), 48000, 87),
    ],
    ids=["one frame", "padded", "one sample", "8 kHz", "stereo PCM", "5.1"],
)
def test_audio_of_many_kinds(dia, samples, rate, frames):
    codes = dia.encode_audio(samples, rate)
    assert (codes.shape, codes.dtype) == ((frames, CHANNELS), np.int64)
    assert codes.min() >= 0
    assert codes.max() < 1024


def test_stereo_is_the_mean_of_its_channels(dia, voice):
    mono = dia.decode_codes(voice.codes)
    stereo = np.stack([1.5 * mono, 0.5 * mono], axis=1)
    assert np.array_equal(dia.encode_audio(stereo, RATE), dia.encode_audio(mono, RATE))


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.full(RATE, np.nan), RATE, "some samples are NaN or infinite"),
        (np.full(RATE, np.inf), RATE, "some samples are NaN or infinite"),
        (np.zeros(0), RATE, r"the audio is empty: its shape is \(0,\)"),
        (np.zeros((RATE, 0)), RATE, "the audio is empty"),
        (np.zeros((2, RATE)), RATE, "more channels than samples: transpose"),
        (np.zeros((1, RATE, 2)), RATE, "the samples have shape"),
        (np.zeros(RATE, complex), RATE, "the samples are complex128"),
        (np.zeros(RATE), 0, "sample_rate is 0"),
        (np.zeros(RATE), 44100.5, "sample_rate is 44100.5"),
        (np.zeros(300 * RATE, np.float32), RATE, "is 300 s long, and the model takes at most 35 s"),
        (np.zeros(300 * 8000, np.float32), 8000, "300 s long, .* cut it to 5 to 10 s"),
    ],
)
def test_audio_that_is_refused(dia, samples, rate, message):
    with pytest.raises(InvalidAudioError, match=message):
        dia.encode_audio(samples, rate)
