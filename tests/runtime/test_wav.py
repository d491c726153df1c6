"""WAV that is written while it is made."""

import io
import wave

import numpy as np
import pytest
import soundfile

from dia_ort.audio import write_audio
from dia_ort.wav import WavWriter

NOISE = np.random.default_rng(0).uniform(-1.1, 1.1, 5000)
SAMPLES = np.concatenate([NOISE, np.arange(-8, 9) / 8, [0]]).astype(np.float32)
PIECES = [SAMPLES[:1], SAMPLES[1:1000], SAMPLES[1000:1000], SAMPLES[1000:]]


class Pipe(io.BytesIO):
    def seekable(self):
        return False

    def seek(self, *_):
        raise OSError

    tell = seek


def test_pieces_are_the_file_that_libsndfile_writes():
    file, whole = io.BytesIO(), io.BytesIO()
    wav = WavWriter(file, 44_100, update=True)
    for piece in PIECES:
        wav.write(piece)
    write_audio(whole, SAMPLES, 44_100)
    assert file.getvalue() == whole.getvalue()


def test_a_file_is_whole_after_every_piece(tmp_path):
    with (tmp_path / "a.wav").open("wb") as file:
        wav, frames = WavWriter(file, 16_000, update=True), 0
        for piece in PIECES:
            wav.write(piece)
            frames += len(piece)
            info = soundfile.info(tmp_path / "a.wav")
            assert (info.frames, info.samplerate, info.channels) == (frames, 16_000, 1)
            with wave.open(str(tmp_path / "a.wav")) as read:
                assert (read.getnframes(), read.getframerate()) == (frames, 16_000)


@pytest.mark.parametrize("update", [True, False])
def test_every_piece_is_flushed(tmp_path, update):
    with (tmp_path / "a.wav").open("wb") as file:
        wav = WavWriter(file, 16_000, update=update)
        for end, piece in zip(np.cumsum([len(piece) for piece in PIECES]), PIECES, strict=True):
            wav.write(piece)
            assert (tmp_path / "a.wav").stat().st_size == 44 + 2 * end


def test_pipes_are_read_to_their_end():
    """By libsndfile and by Python, though the length in the header is unknown."""
    pipe, whole = Pipe(), io.BytesIO()
    wav = WavWriter(pipe, 44_100, update=False)
    for piece in PIECES:
        wav.write(piece)
    write_audio(whole, SAMPLES, 44_100)
    content = pipe.getvalue()
    assert content[4:8] == content[40:44] == b"\xff" * 4
    whole.seek(0)
    expected, _ = soundfile.read(whole, dtype="int16")
    samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate == 44_100
    assert np.array_equal(samples, expected)
    with wave.open(io.BytesIO(content)) as read:
        assert read.readframes(read.getnframes()) == expected.tobytes()
