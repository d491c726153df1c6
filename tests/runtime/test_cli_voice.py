"""``dia-ort voice``, and ``dia-ort speak`` with a voice."""

import json

import numpy as np
import pytest
import soundfile

from dia_ort.artifacts import list_artifacts
from dia_ort.audio import write_audio
from dia_ort.dia import Dia
from dia_ort.voice import Voice
from dia_ort.voices import voice_file, voices_folder

TEXT = "[S1] hello world."
SAYS = "[S1] thank you."
LONG = "[S1] one two three four five six."  # more than a second, which may be taken for the start
SHORT = ("--model", "demo", "--seed", 7, "--max-tokens", 150)


@pytest.fixture
def recording(tmp_path):
    """Writes a second of noise."""

    def write(name="voice.wav", seconds=1.0, sample_rate=44_100, channels=1):
        noise = np.random.default_rng(0).normal(0, 0.1, (int(seconds * sample_rate), channels))
        write_audio(tmp_path / name, noise, sample_rate)
        return tmp_path / name

    return write


@pytest.fixture
def ann(dia_ort):
    """A voice that is kept, of arbitrary codes."""
    codes = np.random.default_rng(0).integers(0, 1024, (86, 9))
    Voice(codes, SAYS, list_artifacts()[-1].manifest.codec_id, "ref.wav").save("ann")
    return codes


# speak --voice-audio.


@pytest.mark.parametrize("form", [{}, {"sample_rate": 8_000}, {"channels": 2}])
def test_a_recording(dia_ort, recording, form):
    voice = recording(**form)
    code, _, err = dia_ort(
        "speak", TEXT, *SHORT, *("--voice-audio", voice, "--voice-transcript", SAYS)
    )
    assert code == 0
    assert "transcript" not in err
    assert 0 < soundfile.info("speech.wav").duration < 0.6, "the voice's own second is not in it"


def test_a_transcript_without_tag_gets_one(dia_ort, recording):
    voice = ("--voice-audio", recording(), "--voice-transcript")
    bare = dia_ort("speak", TEXT, *SHORT, *voice, "thank you.", "-o", "-")
    tagged = dia_ort("speak", TEXT, *SHORT, *voice, SAYS, "-o", "-")
    assert bare.out == tagged.out
    assert "note: the transcript begins with neither [S1]" in bare.err


def test_a_recording_without_transcript_is_warned_of(dia_ort, recording):
    voice = ("--voice-audio", recording())
    code, _, err = dia_ort("speak", LONG, *SHORT, *voice, "--quiet")
    assert code == 0
    assert err.startswith("warning: the voice has no transcript")
    assert err.count("the voice has no transcript") == 1


@pytest.mark.usefixtures("nothing_loads")
def test_a_transcript_without_recording(dia_ort):
    code, _, err = dia_ort("speak", TEXT, "--voice-transcript", "[S1] hello.")
    assert code == 2
    assert "--voice-audio" in err


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"RIFF", "as audio"), (b"", "as audio")]
)
@pytest.mark.parametrize("command", [("speak", TEXT, "--voice-audio"), ("voice", "add", "ann")])
@pytest.mark.usefixtures("nothing_loads")
def test_a_recording_that_cannot_be_read(dia_ort, tmp_path, command, content, message):
    if content is not None:
        (tmp_path / "voice.wav").write_bytes(content)
    code, _, err = dia_ort(*command, "voice.wav")
    assert code == 2
    assert message in err


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(50_000), np.full(50_000, np.nan)])
def test_a_recording_of_no_use(dia_ort, tmp_path, samples):
    soundfile.write(tmp_path / "voice.wav", samples, 44_100, subtype="FLOAT")
    code, _, err = dia_ort("speak", TEXT, "--model", "demo", "--voice-audio", "voice.wav")
    assert code == 2
    assert "error: the " in err or "error: some samples" in err


@pytest.mark.parametrize("seconds", [0.5, 300])
@pytest.mark.parametrize("command", [("speak", TEXT, "--voice-audio"), ("voice", "add", "ann")])
@pytest.mark.usefixtures("nothing_loads")
def test_a_recording_that_is_too_short_or_too_long(dia_ort, recording, command, seconds):
    code, _, err = dia_ort(*command, recording(seconds=seconds, sample_rate=8_000))
    assert code == 2
    assert f"the recording lasts {seconds:.1f} s" in err
    assert not voices_folder().exists()


# speak --voice.


def test_a_voice_by_name_and_by_file(dia_ort, ann, tmp_path):
    Voice.load("ann").save(tmp_path / "ben.voice")
    code, by_name, err = dia_ort("speak", TEXT, *SHORT, "--voice", "ann", "-o", "-")
    assert code == 0
    assert "transcript" not in err
    assert dia_ort("speak", TEXT, *SHORT, "--voice", "ben.voice", "-o", "-").out == by_name
    assert dia_ort("speak", TEXT, *SHORT, "-o", "-").out != by_name


def test_a_voice_without_transcript_is_warned_of_once(dia_ort, ann):
    Voice(ann).save("bare")
    code, _, err = dia_ort("speak", LONG, *SHORT, "--voice", "bare", "--quiet")
    assert code == 0
    assert err.startswith("warning: the voice has no transcript")
    assert err.count("the voice has no transcript") == 1


@pytest.mark.parametrize(
    ("voice", "code", "message"),
    [
        (("nobody",), 1, "no voice 'nobody'"),
        (("none.voice",), 1, "no voice file none.voice"),
        (("text.voice",), 1, "is no voice"),
        (("ann", "--voice-audio", "a.wav"), 2, "leave out --voice-audio"),
        (("ann", "--voice-transcript", ""), 2, "leave out --voice-audio"),
    ],
)
@pytest.mark.usefixtures("nothing_loads", "ann")
def test_voices_that_are_not_to_be_had(dia_ort, tmp_path, voice, code, message):
    (tmp_path / "text.voice").write_text("hello")
    outcome = dia_ort("speak", TEXT, "--voice", *voice)
    assert outcome.code == code
    assert message in outcome.err


def test_a_voice_of_another_codec(dia_ort, ann):
    Voice(ann, SAYS, "0" * 16).save("other")
    for command in (("speak", TEXT, "--voice", "other"), ("voice", "export", "other", "a.voice")):
        extra = ("--audio", "a.wav") if command[0] == "voice" else ()
        code, _, err = dia_ort(*command, *extra)
        assert code == 2
        assert "made with the codec 0000000000000000, and this model has " in err


# voice.


def test_from_a_recording_to_speech_and_away(dia_ort, recording, tmp_path):
    wav = recording("ref.wav", seconds=1.1)
    code, out, err = dia_ort("voice", "add", "ann", wav, "--transcript", SAYS, "--model", "demo")
    assert (code, err) == (0, "note: the recording lasts 1.1 s; 5 to 10 s are best\n")
    assert f"{voice_file('ann')}: 95 frames, for models with the codec of demo" in out.decode()

    listed = dia_ort("voice", "list").out.decode().splitlines()
    assert listed[0].split() == ["NAME", "LENGTH", "TRANSCRIPT"]
    assert listed[1].split() == ["ann", "1.10", "s", "(95", "frames)", *SAYS.split()]

    shown = dia_ort("voice", "show", "ann").out.decode()
    facts = dict(line.split(maxsplit=1) for line in shown.splitlines())
    codec = list_artifacts()[-1].manifest.codec_id
    assert facts["length"] == "1.10 s (95 frames)"
    assert (facts["transcript"], facts["codec"], facts["models"]) == (SAYS, codec, "demo")
    assert facts["origin"] == "ref.wav"

    kept = dia_ort("speak", TEXT, *SHORT, "--voice", "ann", "-o", "-").out
    recorded = ("--voice-audio", wav, "--voice-transcript", SAYS)
    assert dia_ort("speak", TEXT, *SHORT, *recorded, "-o", "-").out == kept

    code, out, _ = dia_ort("voice", "export", "ann", "copy.voice", "--audio", "copy.flac")
    assert code == 0
    assert out == b"copy.voice: the voice\ncopy.flac: what the voice sounds like\n"
    assert (tmp_path / "copy.voice").read_bytes() == voice_file("ann").read_bytes()
    assert soundfile.info("copy.flac").frames == 95 * 512

    code, out, _ = dia_ort("voice", "remove", "ann")
    assert (code, out.decode()) == (0, f"removed ann: deleted {voice_file('ann')}\n")
    listed = dia_ort("voice", "list").out.decode().splitlines()
    assert [line.split()[0] for line in listed[1:3]] == ["high", "low"]
    assert listed[-1].startswith("`dia-ort voice add` puts voices into ")
    assert dia_ort("voice", "show", "ann").code == 1


def test_add_without_transcript_and_without_tag(dia_ort, recording):
    code, _, err = dia_ort("voice", "add", "bare", recording(), "--model", "demo")
    assert code == 0
    assert err.startswith("warning: the voice has no transcript")
    assert Voice.load("bare").transcript == ""
    words = ("--transcript", "thank you.")
    code, _, err = dia_ort("voice", "add", "ann", recording(), *words, "--model", "demo")
    assert code == 0
    assert err.startswith("note: the transcript begins with neither [S1] nor [S2]: [S1] is put")
    assert Voice.load("ann").transcript == SAYS


def test_add_normalized(dia_ort, recording):
    options = ("--transcript", SAYS, "--normalize", "--model", "demo")
    assert dia_ort("voice", "add", "ann", recording(), *options).code == 0
    voice = Voice.from_audio(Dia.load("demo"), recording(), SAYS, normalize=True)
    np.testing.assert_array_equal(Voice.load("ann").codes, voice.codes)


@pytest.mark.parametrize(
    ("transcript", "message"),
    [("[S1] " + "yes, " * 240, "a transcript of"), ("[S1] yes. [S3] no.", "the tag [S3]")],
)
def test_a_transcript_that_nothing_can_be_spoken_beside(dia_ort, recording, transcript, message):
    words = ("--transcript", transcript)
    code, _, err = dia_ort("voice", "add", "ann", recording(), *words, "--model", "demo")
    assert code == 2
    assert message in err
    assert not voices_folder().exists()


def test_tags_of_a_transcript_that_only_people_can_read(dia_ort, recording):
    words = ("--transcript", "[s1] thank you.")
    code, _, err = dia_ort("voice", "add", "ann", recording(), *words, "--model", "demo")
    assert code == 0
    assert "is put before it" not in err
    assert Voice.load("ann").transcript == SAYS
    assert Voice.from_audio(Dia.load("demo"), recording(), words[1]).transcript == SAYS


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("audio", "code", "message"),
    [("x.xyz", 2, "tells no audio format"), ("none/x.wav", 1, "make the folder none first")],
)
def test_an_export_of_audio_that_cannot_be_written(dia_ort, tmp_path, audio, code, message):
    outcome = dia_ort("voice", "export", "low", "low.voice", "--audio", audio)
    assert outcome.code == code
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nothing_loads", "ann")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("add", "ann", "voice.wav"), 2, "there is a voice 'ann' already"),
        (("add", "../ann", "voice.wav"), 2, "'../ann' is no name"),
        (("add", "ben", "voice.wav", "--transcript", "\udcff"), 2, "--transcript is not UTF-8"),
        (("add", "ben"), 2, "Missing argument"),
        (("show", "ben"), 1, "there are: ann, high, low."),
        (("remove", "ben"), 1, "there are: ann, high, low."),
        (("remove", "./ann.voice"), 2, "is no name"),
        (("export", "ben", "ben.voice"), 1, "there are: ann, high, low."),
        (("export", "ann", "ann.wav"), 2, "must end in .voice"),
        (("export", "ann", "none/ann.voice"), 1, "make the folder none first"),
    ],
)
def test_mistakes(dia_ort, recording, arguments, code, message):
    recording()
    outcome = dia_ort("voice", *arguments)
    assert outcome.code == code
    assert message in outcome.err
    assert [path.name for path in voices_folder().iterdir()] == ["ann.voice"]


def test_lists_what_is_damaged_and_what_no_model_fits(dia_ort, ann):
    Voice(ann, SAYS, "0" * 16).save("other")
    content = voice_file("ann").read_bytes()
    voice_file("ben").write_bytes(content[:100])
    (voices_folder() / "my voice.voice").write_bytes(content)
    code, out, _ = dia_ort("voice", "list", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert list(rows) == ["ann", "ben", "my voice", "other", "high", "low"]
    assert "cut short" in rows["ben"]["error"]
    assert "is no name" in rows["my voice"]["error"]
    assert (rows["other"]["seconds"], rows["other"]["models"]) == (None, [])
    assert rows["ann"] == json.loads(dia_ort("voice", "show", "ann", "--json").out)
    table = dia_ort("voice", "list").out.decode().splitlines()
    assert table[2].split()[:2] == ["ben", "damaged"]
    assert table[4].split()[:3] == ["other", "86", "frames"]
    assert b"none here has this codec" in dia_ort("voice", "show", "other").out


def test_broken_models_are_warned_of(dia_ort, recording, tmp_path):
    broken = tmp_path / "models" / "broken"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{}")
    code, _, err = dia_ort("voice", "add", "ann", recording(), "--transcript", SAYS)
    assert code == 0
    assert f"warning: {broken}" in err


def test_the_folder_of_voices_is_no_model(dia_ort, ann):
    assert dia_ort("models").err == ""
    assert [artifact.name for artifact in list_artifacts()] == ["demo"]
