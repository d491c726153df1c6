"""Streams of encoded speech, decoded again by FFmpeg and libsndfile."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_ort.audio import write_audio
from dia_ort.errors import InvalidAudioError, InvalidConfigError

av = pytest.importorskip("av")
soxr = pytest.importorskip("soxr")

from dia_ort.serve.encoding import AUDIO_FORMATS, choose_rate, open_encoder  # noqa: E402

RATE = 44_100
FORMATS = list(AUDIO_FORMATS)
STREAMS = [(name, rate) for name in FORMATS for rate in AUDIO_FORMATS[name].rates]
LOSSLESS = ("flac", "wav", "pcm")
PRIMING = {"mp3": 1105, "aac": 1024}  # samples before the first, which the files do not tell of
LAG = {8_000: 0.5, 16_000: 0.25, 24_000: 0.2, 44_100: 0.1, 48_000: 0.1}  # seconds


def make_noise(seconds=1.0):
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE) + 20)
    smooth = np.convolve(noise, np.hanning(16), "valid")
    return (0.3 * smooth / np.abs(smooth).max()).astype(np.float32)[: round(seconds * RATE)]


NOISE = make_noise()


def cut(samples, sizes):
    """Pieces of those sizes, the last one over and over."""
    pieces, start, sizes = [], 0, list(sizes)
    while start < len(samples):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        pieces.append(samples[start : start + size])
        start += size
    return pieces


def encode(name, pieces, output_rate=None):
    encoder = open_encoder(name, RATE, output_rate)
    return b"".join([*(encoder.push(piece) for piece in pieces), encoder.finish()])


def decode(name, content, rate):
    """The samples, and their rate."""
    if name == "pcm":
        return np.frombuffer(content, "<i2") / 2**15, rate
    blocks = []
    with av.open(io.BytesIO(content), format="ogg" if name == "opus" else name) as file:
        for frame in file.decode(audio=0):
            scale = 2**15 if frame.format.name.startswith("s16") else 1
            blocks.append(frame.to_ndarray().reshape(-1) / scale)
            rate = frame.sample_rate
    return np.concatenate(blocks or [np.empty(0)]), rate


@pytest.mark.parametrize(("name", "rate"), STREAMS)
def test_what_is_decoded_is_what_was_pushed(name, rate):
    encoder = open_encoder(name, RATE, rate)
    assert encoder.sample_rate == rate
    content = b"".join([*map(encoder.push, cut(NOISE, [2048, 4096, 8192])), encoder.finish()])
    decoded, decoded_rate = decode(name, content, rate)
    assert decoded_rate == (48_000 if name == "opus" else rate)
    expected = soxr.resample(NOISE, RATE, decoded_rate)
    decoded = decoded[PRIMING.get(name, 0) :]
    if name in PRIMING:
        assert 0 <= len(decoded) - len(expected) < 2 * 1152
    else:
        assert len(decoded) == len(expected)
    assert np.corrcoef(decoded[: len(expected)], expected)[0, 1] > 0.97
    if name in LOSSLESS:
        assert np.abs(decoded - expected).max() < 1.01 / 2**15


@pytest.mark.parametrize(("name", "rate"), STREAMS)
def test_bytes_go_out_as_they_are_made(name, rate):
    encoder, content, pushed, begun = open_encoder(name, RATE, rate), b"", 0, False
    for piece in cut(NOISE, [2048, 4096, 8192, 1000]):
        content += encoder.push(piece)
        pushed += len(piece)
        begun = begun or pushed / RATE > LAG[rate]
        if begun:
            decoded, decoded_rate = decode(name, content, rate)
            heard = (len(decoded) - PRIMING.get(name, 0)) / decoded_rate
            assert pushed / RATE - heard < LAG[rate]


@pytest.mark.parametrize("name", LOSSLESS)
def test_16_bits_are_those_of_write_audio(name):
    noise = np.random.default_rng(0).uniform(-1.1, 1.1, 5000)
    samples = np.concatenate([noise, np.arange(-20, 21) / 16, np.arange(-9, 9) / 2**16])
    samples = samples.astype(np.float32)
    wav = io.BytesIO()
    write_audio(wav, samples, RATE, "wav")
    wav.seek(0)
    expected, _ = soundfile.read(wav)
    decoded, rate = decode(name, encode(name, cut(samples, [100]), RATE), RATE)
    assert rate == RATE
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize("name", FORMATS)
def test_samples_are_clipped(name):
    loud = np.repeat(np.float32([3, -1, 1, -3]), 5000)
    encoders = open_encoder(name, 48_000, 48_000), open_encoder(name, 48_000, 48_000)
    contents = [
        encoder.push(samples) + encoder.finish()
        for encoder, samples in zip(encoders, [loud, loud.clip(-1, 1)], strict=True)
    ]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("name", LOSSLESS)
def test_resampled_samples_do_not_wrap_around(name):
    loud = np.repeat(np.float32([1, -1]), 5000)  # soxr rings beyond them
    decoded, _ = decode(name, encode(name, [loud], 48_000), 48_000)
    assert decoded[:5300].min() > -0.3
    assert decoded[-5300:].max() < 0.3


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rate", [None, 24_000])
@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=10))
@settings(max_examples=5, deadline=None)
def test_the_bytes_do_not_depend_on_the_pushes(name, rate, sizes):
    samples = NOISE[:20_000]
    if sizes[-1] < 100:
        sizes = [*sizes, 100]
    assert encode(name, cut(samples, sizes), rate) == encode(name, [samples], rate)


@pytest.mark.parametrize("name", FORMATS)
def test_single_samples(name):
    samples = NOISE[:2500]
    pieces = [*cut(samples[:1500], [1]), samples[:0], samples[1500:]]
    assert encode(name, pieces) == encode(name, [samples])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("samples", [0, 1, 2])
def test_very_short_speech(name, samples):
    rate = choose_rate(name, RATE)
    content = encode(name, [NOISE[:samples]])
    decoded, decoded_rate = decode(name, content, rate)
    if name in PRIMING:
        assert 0 < len(decoded) / decoded_rate < 0.1
    elif samples or name != "opus":
        assert len(decoded) == round(samples * decoded_rate / RATE)
    if name in ("mp3", "opus", "wav"):
        decoded, _ = soundfile.read(io.BytesIO(content))
        assert np.abs(decoded).max(initial=0) < 0.1


@pytest.mark.parametrize("name", ["mp3", "opus", "wav"])
def test_libsndfile_reads_streams(name):
    decoded, rate = soundfile.read(io.BytesIO(encode(name, [NOISE])))
    assert len(decoded) / rate == pytest.approx(1, abs=0.06)


def test_headers_know_no_length_and_no_version():
    wav = encode("wav", [NOISE])
    assert wav[:4] == b"RIFF"
    assert wav[4:8] == wav[40:44] == b"\xff" * 4
    assert wav[44:] == encode("pcm", [NOISE], RATE)
    assert len(encode("pcm", [NOISE])) == 2 * 24_000
    for name in FORMATS:
        content = encode(name, [NOISE])
        assert b"Lavf" not in content
        assert b"Lavc" not in content
    assert encode("mp3", [NOISE])[0] == 0xFF  # no tag before the first frame
    assert len(encode("flac", [])) < 100  # no room for tags


def test_wav_begins_with_the_first_push():
    encoder = open_encoder("wav", RATE)
    assert len(encoder.push(NOISE[:3])) == 44 + 6
    assert len(encoder.push(NOISE[:3])) == 6


def test_rates_and_media_types():
    rates = {name: choose_rate(name, RATE) for name in FORMATS}
    others = dict.fromkeys(("mp3", "aac", "flac", "wav"), RATE)
    assert rates == {"opus": 48_000, "pcm": 24_000, **others}
    assert choose_rate("mp3", 16_000) == 16_000
    assert open_encoder("opus", RATE).media_type == "audio/ogg; codecs=opus"
    types = [AUDIO_FORMATS[name].media_type for name in FORMATS if name != "opus"]
    assert types == ["audio/mpeg", "audio/aac", "audio/flac", "audio/wav", "audio/pcm"]


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [
        ("ogg", None, "mp3, opus, aac, flac, wav, pcm"),
        ("opus", 44_100, "8000, 16000, 24000, 48000"),
        ("wav", 96_000, "44100"),
        ("wav", 0, "44100"),
    ],
)
def test_what_cannot_be_had_is_refused(name, rate, message):
    with pytest.raises(InvalidConfigError, match=message):
        open_encoder(name, RATE, rate)


@pytest.mark.parametrize("samples", [NOISE[None], np.float32([0, np.nan]), np.float32([np.inf])])
def test_bad_samples_are_refused(samples):
    with pytest.raises(InvalidAudioError, match="finite"):
        open_encoder("mp3", RATE).push(samples)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("end", ["finish", "close"])
def test_nothing_comes_after_the_end(name, end):
    encoder = open_encoder(name, RATE)
    encoder.push(NOISE)
    getattr(encoder, end)()
    encoder.close()
    with pytest.raises(InvalidAudioError, match="ended"):
        encoder.push(NOISE)
    with pytest.raises(InvalidAudioError, match="ended"):
        encoder.finish()


@pytest.mark.parametrize("name", FORMATS)
def test_threads_take_turns(name):
    encoder, pieces = open_encoder(name, RATE), cut(NOISE, [9000])
    content = b""
    for piece in pieces:
        with ThreadPoolExecutor(1) as thread:
            content += thread.submit(encoder.push, piece).result()
    with ThreadPoolExecutor(1) as thread:
        content += thread.submit(encoder.finish).result()
    assert content == encode(name, pieces)
