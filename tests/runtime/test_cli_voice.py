"""``dia-ort speak --voice-audio``."""

import numpy as np
import pytest
import soundfile

from dia_ort.audio import write_audio
from dia_ort.dia import Dia

TEXT = "[S1] hello world."
SHORT = ("--model", "demo", "--seed", 7, "--max-tokens", 150)


@pytest.fixture
def recording(tmp_path):
    """Writes a second of noise."""

    def write(name="voice.wav", seconds=1.0, sample_rate=44_100, channels=1):
        noise = np.random.default_rng(0).normal(0, 0.1, (int(seconds * sample_rate), channels))
        write_audio(tmp_path / name, noise, sample_rate)
        return tmp_path / name

    return write


@pytest.mark.parametrize("form", [{}, {"sample_rate": 8_000}, {"channels": 2}])
def test_a_voice(dia_ort, recording, form):
    voice = recording(**form)
    code, _, err = dia_ort(
        "speak",
        TEXT,
        *SHORT,
        *("--voice-audio", voice, "--voice-transcript", "[S1] thank you."),
    )
    assert code == 0
    assert "warning" not in err
    assert 0 < soundfile.info("speech.wav").duration < 0.6, "the voice's own second is not in it"


def test_a_transcript_without_tag_gets_one(dia_ort, recording):
    voice = ("--voice-audio", recording(), "--voice-transcript")
    bare = dia_ort("speak", TEXT, *SHORT, *voice, "thank you.", "-o", "-")
    tagged = dia_ort("speak", TEXT, *SHORT, *voice, "[S1] thank you.", "-o", "-")
    assert bare.out == tagged.out
    assert "note: the transcript has no [S1]" in bare.err


def test_a_voice_without_transcript_is_warned_of(dia_ort, recording):
    voice = ("--voice-audio", recording())
    code, _, err = dia_ort("speak", TEXT, *SHORT, *voice, "--quiet")
    assert code == 0
    assert err.startswith("warning: there is no --voice-transcript")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("nothing_loads")
def test_a_transcript_without_voice(dia_ort):
    code, _, err = dia_ort("speak", TEXT, "--voice-transcript", "[S1] hello.")
    assert code == 2
    assert "--voice-audio" in err


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"RIFF", "as audio"), (b"", "as audio")]
)
@pytest.mark.usefixtures("nothing_loads")
def test_a_voice_that_cannot_be_read(dia_ort, tmp_path, content, message):
    if content is not None:
        (tmp_path / "voice.wav").write_bytes(content)
    code, _, err = dia_ort("speak", TEXT, "--voice-audio", "voice.wav")
    assert code == 2
    assert message in err


@pytest.mark.parametrize("samples", [np.zeros(0), np.full(1000, np.nan)])
def test_a_voice_of_no_use(dia_ort, tmp_path, samples):
    soundfile.write(tmp_path / "voice.wav", samples, 44_100, subtype="FLOAT")
    code, _, err = dia_ort("speak", TEXT, "--model", "demo", "--voice-audio", "voice.wav")
    assert code == 2
    assert "error: " in err


def test_a_voice_that_is_too_long(dia_ort, recording, monkeypatch):
    monkeypatch.setattr(Dia, "encode_audio", lambda *_: pytest.fail("it was encoded"))
    voice = recording(seconds=300, sample_rate=8_000)
    code, _, err = dia_ort("speak", TEXT, "--model", "demo", "--voice-audio", voice)
    assert code == 2
    assert "the recording lasts 300.0 s" in err
