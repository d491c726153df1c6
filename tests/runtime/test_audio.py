import io
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

import dia_ort.audio
from dia_ort.audio import Audio, prepare_audio, read_audio, write_audio
from dia_ort.errors import AudioFileError, InvalidAudioError

RATE = 44_100
FORMATS = ["wav", "flac", "ogg", "opus", "mp3"]


def tone(seconds=0.5, rate=RATE, frequency=440.0, amplitude=0.5):
    time = np.arange(int(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def loudest_frequency(samples, rate):
    return np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_suffix_is_written_and_read_back(tmp_path, suffix):
    audio = Audio(tone(), RATE, np.zeros((43, 9), int), "eos", 7)
    assert audio.duration == 0.5
    path = tmp_path / f"hello.{suffix.upper()}"
    audio.save(path)
    samples, rate = read_audio(path)
    assert rate == (48_000 if suffix == "opus" else RATE)
    assert samples.dtype == np.float32
    assert samples.shape == (rate // 2, 1)
    assert loudest_frequency(samples[:, 0], rate) == pytest.approx(440, abs=3)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.06)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_lossless_formats_keep_16_bits(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_audio(path, tone(), RATE)
    np.testing.assert_allclose(read_audio(path)[0][:, 0], tone(), atol=1 / 32_768)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_long_file_and_a_single_sample_are_written(tmp_path, suffix):
    for count in (1, 60 * RATE):
        write_audio(tmp_path / f"a.{suffix}", np.zeros(count, np.float32), RATE)
        samples, rate = read_audio(tmp_path / f"a.{suffix}")
        assert len(samples) == pytest.approx(count * rate / RATE, abs=1)


@pytest.mark.parametrize("suffix", ["mp3", "opus"])
def test_rates_that_a_format_lacks_are_resampled(tmp_path, suffix):
    write_audio(tmp_path / f"a.{suffix}", tone(rate=96_000), 96_000)
    samples, rate = read_audio(tmp_path / f"a.{suffix}")
    assert (len(samples), rate) == (24_000, 48_000)
    assert loudest_frequency(samples[:, 0], rate) == pytest.approx(440, abs=3)


def test_samples_beyond_full_scale_are_clipped(tmp_path):
    write_audio(tmp_path / "a.wav", np.array([-3.0, -1, 0, 1, 7e20]), RATE)
    samples, _ = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(samples[:, 0], [-1, -1, 0, 1, 1], atol=1 / 32_767)


def test_stereo_is_written_as_stereo(tmp_path):
    stereo = np.stack([tone(), np.zeros_like(tone())], axis=1)
    write_audio(tmp_path / "a.flac", stereo, RATE)
    np.testing.assert_allclose(read_audio(tmp_path / "a.flac")[0], stereo, atol=1 / 32_768)


class Pipe(io.BytesIO):
    def seekable(self):
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation

    tell = seek


@pytest.mark.parametrize("format_", [None, "flac", ".MP3", "opus"])
def test_a_stream_need_not_seek(format_):
    pipe = Pipe()
    write_audio(pipe, tone(), RATE, format_)
    content = pipe.getvalue()
    samples, _ = read_audio(io.BytesIO(content))
    assert loudest_frequency(samples[:, 0], len(samples) * 2) == pytest.approx(440, abs=3)
    assert content.startswith(b"RIFF") == (format_ is None)


def test_a_file_is_replaced_and_a_link_is_followed(tmp_path):
    real = tmp_path / "real.wav"
    real.write_text("old")
    link = tmp_path / "link.wav"
    link.symlink_to(real)
    write_audio(link, tone(), RATE)
    assert link.is_symlink()
    assert len(read_audio(real)[0]) == RATE // 2


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="there is no /dev/null")
def test_devices_are_written_to_not_replaced():
    write_audio("/dev/null", tone(), RATE, "wav")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["a", "a.aac", "a.wav.txt"])
def test_an_unknown_suffix_says_which_there_are(tmp_path, name):
    with pytest.raises(AudioFileError, match=r"\.wav, \.flac, \.ogg, \.opus, \.mp3"):
        write_audio(tmp_path / name, tone(), RATE)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    remedy = f"make the folder {tmp_path / 'none'} first"
    with pytest.raises(AudioFileError, match=re.escape(remedy)):
        write_audio(tmp_path / "none" / "a.wav", tone(), RATE)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(AudioFileError, match=r"directory|Permission denied"):
        write_audio(tmp_path, tone(), RATE, "wav")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    def fill_the_disk(path, content):
        path.open("wb").write(content[:10])
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.wav"
    path.write_text("old")
    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(AudioFileError, match="No space left"):
        write_audio(path, tone(), RATE)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_the_encoder_cannot_hold_is_refused(tmp_path):
    with pytest.raises(AudioFileError, match=r"MPEG_LAYER_III cannot hold .* 6"):
        write_audio(tmp_path / "a.mp3", np.zeros((100, 6)), RATE)
    assert not list(tmp_path.iterdir())


def test_what_is_no_audio_file_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    with pytest.raises(AudioFileError, match="No such file"):
        read_audio(path)
    path.write_text("this is not audio")
    with pytest.raises(AudioFileError, match=r"a\.wav as audio .*convert it to WAV or FLAC"):
        read_audio(path)
    path.rename(tmp_path / "a.raw")
    with pytest.raises(AudioFileError, match=r"a\.raw as audio .it has no header"):
        read_audio(tmp_path / "a.raw")


def test_what_a_check_raises_is_left_as_it_is(tmp_path):
    def check(_):
        raise TypeError("the caller's own")

    write_audio(tmp_path / "a.wav", tone(), RATE)
    with pytest.raises(TypeError, match="the caller's own"):
        read_audio(tmp_path / "a.wav", check)


@pytest.mark.parametrize("file", [None, b"RIFF"])
def test_what_cannot_be_read_from_is_refused(file):
    with pytest.raises(AudioFileError, match=r"cannot read \w+ as audio: give a path"):
        read_audio(file)


@pytest.mark.parametrize("file", [None, io.StringIO()])
def test_what_takes_no_bytes_is_refused(file):
    with pytest.raises(AudioFileError, match=r"cannot write to \w+: give a path, or a stream"):
        write_audio(file, tone(), RATE)


@pytest.mark.parametrize("name", ["a.wav/", "a.wav/."])
def test_a_folder_s_name_is_no_file_s(tmp_path, name):
    with pytest.raises(AudioFileError, match="it names a folder"):
        write_audio(f"{tmp_path}/{name}", tone(), RATE)
    assert not list(tmp_path.iterdir())


def test_audio_is_shown_in_a_line():
    audio = Audio(tone(), RATE, np.zeros((43, 9), int), "eos", 7, "[S1] " + "a" * 500)
    shown = "Audio(0.50 s at 44100 Hz, 43 frames, 'eos', seed=7, text='[S1] aaa"
    assert repr(audio).startswith(shown)
    assert len(repr(audio)) < 120


def test_a_stream_that_does_not_tell_its_length_is_refused(tmp_path):
    path = tmp_path / "a.flac"
    write_audio(path, tone(), RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the lowest 36 bits of these eight bytes are the number of samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(AudioFileError, match="does not say how long it is"):
        read_audio(path)


def test_the_length_is_checked_before_anything_is_decoded(tmp_path, monkeypatch):
    def refuse(seconds):
        raise InvalidAudioError(f"{seconds} s")

    path = tmp_path / "a.flac"
    write_audio(path, tone(), RATE)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("it is decoded"))
    with pytest.raises(InvalidAudioError, match=r"0\.5 s"):
        read_audio(path, refuse)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_read(tmp_path):
    pipe, buffer = tmp_path / "pipe", io.BytesIO()
    write_audio(buffer, tone(), RATE)
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(pipe.write_bytes, buffer.getvalue())
        samples, rate = read_audio(pipe)
    assert (len(samples), rate) == (RATE // 2, RATE)


@pytest.mark.parametrize(
    "target", [prepare_audio, lambda x, rate, _: write_audio("a.wav", x, rate)]
)
@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.array([0.0, np.nan]), RATE, "NaN or infinite"),
        (np.array([0.0, -np.inf]), RATE, "NaN or infinite"),
        (np.empty(0, np.float32), RATE, "empty"),
        (np.empty((100, 0), np.float32), RATE, "empty"),
        (np.empty((0, 2), np.float32), RATE, "empty"),
        (np.zeros((1, 100, 2)), RATE, r"shape \(1, 100, 2\)"),
        (np.float32(0), RATE, r"shape \(\)"),
        (np.zeros((2, 100)), RATE, "transpose"),
        (np.zeros(100, np.int64), RATE, "int64: give floats"),
        (np.zeros(100, np.uint8), RATE, "uint8: give floats"),
        (np.zeros(100, bool), RATE, "bool: give floats"),
        (np.zeros(100, complex), RATE, "complex128: give floats"),
        (np.zeros(100), 0, "sample_rate is 0"),
        (np.zeros(100), -RATE, "sample_rate is -44100"),
        (np.zeros(100), 44_100.0, r"sample_rate is 44100\.0"),
        (np.zeros(100), True, "sample_rate is True"),
        (np.zeros(100), None, "sample_rate is None"),
        (np.zeros(100), 999, "from 1000 to 768000"),
        (np.zeros(100), 768_001, "from 1000 to 768000"),
    ],
)
def test_bad_samples_are_refused(tmp_path, monkeypatch, target, samples, rate, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidAudioError, match=message):
        target(samples, rate, RATE)
    assert not list(tmp_path.iterdir())


def test_audio_at_the_right_rate_is_kept_exactly():
    prepared = prepare_audio(tone(), RATE, RATE)
    assert prepared.dtype == np.float32
    np.testing.assert_array_equal(prepared, tone())


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000, np.int64(192_000)])
def test_audio_is_resampled(rate):
    prepared = prepare_audio(tone(rate=rate), rate, RATE)
    assert prepared.shape == (RATE // 2,)
    inner = slice(2000, -2000)  # the filter rings at the ends
    np.testing.assert_allclose(prepared[inner], tone()[inner], atol=1e-4)


def test_channels_are_averaged():
    stereo = np.stack([tone(), -0.5 * tone()], axis=1)
    np.testing.assert_allclose(prepare_audio(stereo, RATE, RATE), 0.25 * tone(), atol=1e-7)
    assert prepare_audio(tone()[:, None], RATE, RATE).shape == tone().shape


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_integers_are_scaled(dtype):
    limits = np.iinfo(dtype)
    prepared = prepare_audio(np.array([limits.min, 0, limits.max], dtype), RATE, RATE)
    np.testing.assert_allclose(prepared, [-1, 0, 1], atol=1 / 32_768)


def test_integers_that_were_cast_are_refused():
    with pytest.raises(InvalidAudioError, match=r"reach 16383.*divide by 32768"):
        prepare_audio((tone() * 32767).astype(np.int16).astype(np.float32), RATE, RATE)
    assert np.abs(prepare_audio(tone(amplitude=8), RATE, RATE)).max() == pytest.approx(8, abs=0.01)


def test_silence_is_audio():
    assert not prepare_audio(np.zeros(1000), 8_000, RATE).any()


def test_too_few_samples_to_resample_are_refused():
    with pytest.raises(InvalidAudioError, match="too short"):
        prepare_audio(np.zeros(1), 192_000, 8_000)


def test_codecs_are_imported_when_needed():
    code = "import sys, dia_ort.audio; sys.exit(bool({'soundfile', 'soxr'} & set(sys.modules)))"
    root = Path(dia_ort.audio.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(root)})


def test_libsndfile_is_new_enough():
    assert {"MP3", "OGG"} <= set(soundfile.available_formats())
    assert "OPUS" in soundfile.available_subtypes("OGG")
