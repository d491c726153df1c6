"""``dia-ort speak --stream`` in this process; signals and pipes are in test_cli_processes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dia_ort import scheduler
from dia_ort.wav import WavWriter

TEXT = "[S1] hello world."
SHORT = ("--model", "demo", "--seed", 7, "--max-tokens", 30)


def duration(file):
    return soundfile.info(file).duration


def test_streams_are_the_same_speech(dia_ort):
    """But for the last of 16 bits, where the codec's windows round otherwise."""
    assert dia_ort("speak", TEXT, *SHORT, "--max-tokens", 100, "-o", "whole.wav").code == 0
    code, _, err = dia_ort(
        *("speak", TEXT, *SHORT, "--max-tokens", 100, "--stream", "-o", "grown.wav")
    )
    code_, piped, _ = dia_ort(
        *("speak", TEXT, *SHORT, "--max-tokens", 100, "--stream", "-o", "-", "--format", "wav")
    )
    assert (code, code_) == (0, 0)
    assert f"grown.wav: {duration('grown.wav'):.2f} s of speech in " in err
    assert " real time), the first of it after " in err
    whole, grown = (soundfile.read(name, dtype="int16")[0] for name in ("whole.wav", "grown.wav"))
    assert whole.shape == grown.shape
    assert np.abs(whole.astype(int) - grown).max() <= 1
    assert piped[44:] == Path("grown.wav").read_bytes()[44:]


def test_a_streamed_file_is_whole_after_every_piece(dia_ort, tmp_path, monkeypatch):
    (tmp_path / "hello.wav").write_bytes(b"old")
    durations, contents = [], []
    write = WavWriter.write

    def write_and_look(*arguments):
        write(*arguments)
        durations.append(duration("hello.wav"))

    def step(*arguments, **named):
        contents.append((tmp_path / "hello.wav").read_bytes()[:4])
        return draw(*arguments, **named)

    draw = scheduler.draw
    monkeypatch.setattr(scheduler, "draw", step)
    monkeypatch.setattr(WavWriter, "write", write_and_look)
    assert (
        dia_ort("speak", TEXT, *SHORT, "--max-tokens", 90, "--stream", "-o", "hello.wav").code == 0
    )
    assert len(durations) > 3
    assert durations == sorted(set(durations))
    assert contents[:29] == [b"old"] * 29  # until there is something better
    assert set(contents[29:]) == {b"RIFF"}
    assert [path.name for path in tmp_path.iterdir()] == ["hello.wav"]


def test_a_streamed_file_has_a_free_name(dia_ort, tmp_path):
    for _ in range(2):
        assert dia_ort("speak", TEXT, *SHORT, "--stream").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speech-1.wav", "speech.wav"]


@pytest.mark.parametrize("arguments", [("-o", "hello.mp3"), ("-o", "-", "--format", "flac")])
@pytest.mark.usefixtures("nothing_loads")
def test_only_wav_is_streamed(dia_ort, arguments):
    code, out, err = dia_ort("speak", TEXT, "--stream", *arguments)
    assert (code, out) == (2, b"")
    assert f"--stream writes wav, and not {arguments[-1][-4:].strip('.')} so far" in err
