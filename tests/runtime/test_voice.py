import dataclasses
import json

import numpy as np
import pytest
import soundfile

import dia_ort
from dia_ort import Dia, GenerationConfig
from dia_ort.artifacts import find_artifact
from dia_ort.audio import Audio, normalize_loudness
from dia_ort.errors import (
    InvalidAudioError,
    InvalidConfigError,
    InvalidTextError,
    VoiceFileError,
)
from dia_ort.voice import Voice
from dia_ort.voices import (
    list_built_in_voices,
    list_voice_files,
    remove_voice,
    voice_file,
    voices_folder,
)

RATE = 44_100
CODES = np.arange(18).reshape(2, 9)


@pytest.fixture(scope="module")
def demo():
    return Dia.load("demo", provider="cpu", threads=1)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DIA_ORT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def noise(seconds=1.5, channels=1, amplitude=0.1, rate=RATE):
    random = np.random.default_rng(0)
    return random.normal(0, amplitude, (int(seconds * rate), channels)).astype(np.float32)


# The class.


def test_codes_are_a_read_only_copy():
    codes = np.arange(18, dtype=np.int16).reshape(2, 9)
    voice = Voice(codes, "[S1] Hello.")
    codes[:] = 0
    assert voice.codes.dtype == np.int64
    assert voice.codes.tolist() == CODES.tolist()
    with pytest.raises(ValueError, match="read-only"):
        voice.codes[0, 0] = 5


def test_lists_are_taken():
    assert Voice([[1, 2], [3, 4]]).codes.shape == (2, 2)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((2, 9)), "float64: give integers"),
        (np.zeros((2, 9), bool), "bool: give integers"),
        (np.zeros(9, int), r"shape \(9,\)"),
        (np.zeros((1, 2, 9), int), r"shape \(1, 2, 9\)"),
        (np.zeros((0, 9), int), "at least one frame"),
        (np.zeros((9, 0), int), r"shape \(9, 0\)"),
        (np.array([[3, -1]]), "go down to -1"),
    ],
)
def test_other_codes_are_refused(codes, message):
    with pytest.raises(InvalidAudioError, match=message):
        Voice(codes)


def test_a_transcript_that_is_not_text_is_refused():
    with pytest.raises(InvalidTextError, match="transcript is bytes"):
        Voice(np.zeros((1, 9), int), b"hello")


def test_the_transcript_goes_before_the_text():
    codes = np.zeros((1, 9), int)
    assert Voice(codes, " [S1] Hello.\n").script("[S2] Hi!") == "[S1] Hello. [S2] Hi!"
    assert Voice(codes).script("[S1] Hi!") == "[S1] Hi!"
    assert Voice(codes, " ").script("[S1] Hi!") == "[S1] Hi!"


# Made of a recording.


def test_of_samples_and_of_a_file(demo, folder):
    soundfile.write("ref.wav", noise(), RATE, subtype="FLOAT")
    of_file = Voice.from_audio(demo, "ref.wav", "[S1] Hello.")
    of_samples = Voice.from_audio(demo, noise(), "[S1] Hello.", sample_rate=RATE)
    assert (of_file.origin, of_samples.origin) == ("ref.wav", "")
    assert of_file.codec == of_samples.codec == demo.manifest.codec_id
    assert of_file.transcript == "[S1] Hello."
    np.testing.assert_array_equal(of_file.codes, demo.encode_audio(noise(), RATE))
    np.testing.assert_array_equal(of_file.codes, of_samples.codes)


@pytest.mark.parametrize(
    ("suffix", "rate", "channels"),
    [("wav", 8_000, 1), ("flac", 96_000, 2), ("ogg", 22_050, 6), ("mp3", 48_000, 2)],
)
def test_any_format_rate_and_channels(demo, folder, suffix, rate, channels):
    soundfile.write(f"ref.{suffix}", noise(1.2, channels, rate=rate), rate)
    voice = Voice.from_audio(demo, folder / f"ref.{suffix}", "[S1] Hello.")
    assert len(voice.codes) == pytest.approx(1.2 * RATE / 512, abs=8)


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (0.9, r"lasts 0\.9 s, and a voice takes 1 to 30 s: record more"),
        (30.2, r"lasts 30\.2 s, and a voice takes 1 to 30 s: cut it"),
    ],
)
def test_too_short_or_too_long(demo, seconds, message):
    with pytest.raises(InvalidAudioError, match=message):
        Voice.from_audio(demo, noise(seconds, rate=8_000), sample_rate=8_000)


def test_silence_is_refused(demo):
    with pytest.raises(InvalidAudioError, match="silent"):
        Voice.from_audio(demo, np.zeros(2 * RATE), sample_rate=RATE)


@pytest.mark.parametrize(("audio", "rate"), [("ref.wav", RATE), (np.zeros(RATE), None)])
def test_samples_have_a_rate_and_files_their_own(demo, audio, rate):
    with pytest.raises(InvalidConfigError, match="sample_rate"):
        Voice.from_audio(demo, audio, sample_rate=rate)


@pytest.mark.parametrize("audio", [None, b"RIFF", Audio(noise(), RATE, CODES, "eos", 7)])
def test_what_is_no_recording(demo, audio):
    with pytest.raises(InvalidAudioError, match=f"the recording is {type(audio).__name__}: give"):
        Voice.from_audio(demo, audio)


def test_integers_that_were_cast_make_no_voice(demo):
    with pytest.raises(InvalidAudioError, match="int16 that were cast"):
        Voice.from_audio(demo, noise() * 32768, sample_rate=RATE)


def test_normalized_on_request(demo):
    quiet = noise(amplitude=0.001)
    plain = Voice.from_audio(demo, quiet, sample_rate=RATE)
    normal = Voice.from_audio(demo, quiet, sample_rate=RATE, normalize=True)
    assert (plain.codes != normal.codes).any()
    loud = normalize_loudness(quiet[:, 0])
    np.testing.assert_array_equal(normal.codes, demo.encode_audio(loud, RATE))


def test_loudness():
    even = normalize_loudness(noise(amplitude=0.001)[:, 0])
    assert 20 * np.log10(np.sqrt(np.mean(even**2))) == pytest.approx(-23, abs=0.01)
    assert even.dtype == np.float32
    click = np.full(1000, 1e-3, np.float32)
    click[500] = -2
    assert 20 * np.log10(np.abs(normalize_loudness(click)).max()) == pytest.approx(-1, abs=0.01)
    assert not normalize_loudness(np.zeros(10, np.float32)).any()


# Kept from a result.


def test_of_a_result(demo):
    text = "[S1] hello world."
    audio = demo.generate(text, GenerationConfig(seed=7))
    assert audio.finish_reason == "eos"
    voice = Voice.from_result(audio)
    assert (voice.transcript, voice.codec) == (text, demo.manifest.codec_id)
    assert voice.origin == "generated with seed 7"
    np.testing.assert_array_equal(voice.codes, audio.codes)
    assert Voice.from_result(audio, "[S1] hello.").transcript == "[S1] hello."
    again = demo.generate("[S1] yes.", GenerationConfig(seed=8), voice)
    assert again.text == "[S1] yes."


def test_of_a_result_that_was_cut_off():
    audio = Audio(np.zeros(1024), RATE, CODES, "length", 7, "[S1] Hello world.")
    with pytest.warns(UserWarning, match="cut off"):
        Voice.from_result(audio)
    Voice.from_result(audio, "[S1] Hello")


# In use.


def test_a_voice_of_another_codec_is_refused(demo):
    voice = Voice(CODES, "[S1] Hello.", codec="0123456789abcdef")
    with pytest.raises(InvalidAudioError) as error:
        demo.start("[S1] yes.", voice=voice)
    assert "0123456789abcdef" in str(error.value)
    assert demo.manifest.codec_id in str(error.value)
    assert "voice add" in str(error.value)
    with dia_ort.Engine(demo) as engine, pytest.raises(InvalidAudioError, match="0123456789abcdef"):
        engine.submit("[S1] yes.", voice=voice)


def test_codecs_are_told_by_their_weights(demo):
    files = demo.manifest.files
    assert files["dac_decoder.onnx.data"].sha256.startswith(demo.manifest.codec_id)
    assert len(demo.manifest.codec_id) == 16
    inside = dataclasses.replace(
        demo.manifest,
        graphs=tuple(dataclasses.replace(graph, data=None) for graph in demo.manifest.graphs),
    )
    assert files["dac_decoder.onnx"].sha256.startswith(inside.codec_id)


def test_codes_beyond_the_codec_are_refused(demo):
    with pytest.raises(InvalidAudioError, match="reach from 1 to 1024"):
        demo.start("[S1] yes.", voice=Voice(np.array([[1] * 8 + [1024]]), "[S1] Hello."))


def test_a_voice_without_transcript_is_warned_of(demo):
    with pytest.warns(UserWarning, match="no transcript .* sound worse: Dia takes"):
        demo.start("[S1] yes.", voice=Voice(CODES, " "))


# On disk.


def test_saved_and_loaded_by_name_and_by_file(folder):
    voice = Voice(CODES, "[S1] Grüß \ud800\n", "abc", "ref.wav")
    for place in ("ann", folder / "copy.voice", "ben.voice", folder / "none"):
        voice.save(place)
        loaded = Voice.load(place)
        np.testing.assert_array_equal(loaded.codes, CODES)
        assert (loaded.transcript, loaded.codec) == (voice.transcript, "abc")
        assert loaded.origin == "ref.wav"
    assert voice_file("ann").read_bytes() == (folder / "ben.voice").read_bytes()
    assert list_voice_files() == [folder / "home" / "voices" / "ann.voice"]
    assert remove_voice("ann") == voice_file("ann")
    assert list_voice_files() == []


@pytest.mark.parametrize("name", ["con", "PRN", "Aux", "nul", "COM0", "lpt9"])
def test_no_voice_has_the_name_of_a_device(folder, name):
    for function in (voice_file, remove_voice, Voice.load, Voice(CODES).save):
        with pytest.raises(InvalidConfigError, match="on Windows it is a device's"):
            function(name)
    assert not list(folder.rglob("*.voice"))
    assert voice_file(f"{name}0").stem == f"{name}0"


def test_a_file_is_small(folder):
    Voice(np.full((862, 9), 1023), "[S1] Ten seconds.").save("ann.voice")
    assert (folder / "ann.voice").stat().st_size < 22_000


def test_unknown_codec_and_no_transcript_are_kept(folder):
    Voice(CODES).save("ann")
    loaded = Voice.load("ann")
    assert (loaded.transcript, loaded.codec, loaded.origin) == ("", None, "")


@pytest.mark.parametrize(
    "name", ["", "..", "../a", "a/b", "a.b", "-a", "ä", "a" * 65, "a\n", "a\0"]
)
def test_names_cannot_leave_the_folder(folder, name):
    for function in (voice_file, remove_voice):
        with pytest.raises(InvalidConfigError, match="no name for a voice"):
            function(name)


@pytest.mark.parametrize("name", ["", None, 3])
def test_names_that_are_none(folder, name):
    for function in (Voice.load, Voice(CODES).save):
        with pytest.raises(VoiceFileError, match="names no voice: give a name"):
            function(name)


def test_a_voice_is_shown_in_a_line():
    shown = "Voice(2 frames, transcript='[S1] Hello.', codec=None, origin='ref.wav')"
    assert repr(Voice(CODES, "[S1] Hello.", origin="ref.wav")) == shown


def test_names_that_are_not_there(folder):
    Voice(CODES).save("ann")
    for function in (Voice.load, remove_voice):
        with pytest.raises(VoiceFileError, match=r"'bob' in .* there are: ann, high, low\."):
            function("bob")
    with pytest.raises(VoiceFileError, match=r"no voice file bob\.voice"):
        Voice.load("bob.voice")


def test_the_voices_of_the_demo(folder):
    built_in = Voice.load("high")
    assert built_in.transcript == "[S1] hello world. this is dia."
    assert built_in.codec == find_artifact("demo").manifest.codec_id
    with pytest.raises(VoiceFileError, match="'high' comes with dia-ort, and stays"):
        remove_voice("high")
    Voice(CODES).save("high")
    assert (Voice.load("high").codes == CODES).all()
    assert [path.stem for path in list_built_in_voices()] == ["low"]
    remove_voice("high")
    assert (Voice.load("high").codes == built_in.codes).all()


def test_where_voices_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("DIA_ORT_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert voices_folder() == tmp_path / "dia-ort" / "voices"


def test_a_failed_write_leaves_the_old_file(folder, monkeypatch):
    def fill_the_disk(path, content):
        path.open("wb").write(content[:10])
        raise OSError(28, "No space left on device")

    Voice(CODES, "old").save("ann")
    monkeypatch.setattr("pathlib.Path.write_bytes", fill_the_disk)
    with pytest.raises(VoiceFileError, match="No space left"):
        Voice(CODES, "new").save("ann")
    assert Voice.load("ann").transcript == "old"
    assert len(list(voices_folder().iterdir())) == 1


def test_places_that_cannot_be_written_or_read(folder):
    with pytest.raises(VoiceFileError, match="make the folder none first"):
        Voice(CODES).save("none/ann.voice")
    for function in (Voice(CODES).save, Voice.load):
        with pytest.raises(VoiceFileError, match=r"directory|Permission denied"):
            function(folder)
        with pytest.raises(VoiceFileError, match="null"):
            function("a\0b.voice")


def test_codes_beyond_16_bits_are_not_saved(folder):
    with pytest.raises(InvalidAudioError, match="up to 65536"):
        Voice([[65536]]).save("ann")


def change(**values):
    return lambda record: record | values


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda record: [record], "is no voice: make one"),
        (change(format="dia-ort"), "is no voice: make one"),
        (change(version=2), "version 2, and this dia-ort reads up to 1: upgrade"),
        (change(version=0), "'version' is 0"),
        (change(version=True), "'version' is True"),
        (change(extra=1), "unknown 'extra'"),
        (lambda record: {k: v for k, v in record.items() if k != "codec"}, "lacks 'codec'"),
        (change(codec=5), "'codec' is 5"),
        (change(transcript=None), "'transcript' is None"),
        (change(origin=["a"]), r"'origin' is \['a'\]"),
        (change(shape=[18]), r"'shape' is \[18\]"),
        (change(shape=[2.0, 9]), r"'shape' is \[2.0, 9\]"),
        (change(shape=[True, 18]), r"'shape' is \[True, 18\]"),
        (change(shape=[0, 9]), r"'shape' is \[0, 9\]"),
        (change(shape=[-2, -9]), r"'shape' is \[-2, -9\]"),
        (change(shape=[3, 9]), "36 bytes, not 2 for each of 3 x 9"),
        (change(shape=[10**30, 9]), "36 bytes, not"),
        (change(codes=""), "0 bytes, not"),
        (change(codes="AAA"), "no base64"),
        (change(codes="AA A"), "no base64"),
        (change(codes="ä"), "no base64"),
    ],
)
def test_damaged_files(folder, edit, message):
    Voice(CODES, "[S1] Hello.", "abc", "ref.wav").save("ann")
    path = voice_file("ann")
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(VoiceFileError, match=message):
        Voice.load("ann")


@pytest.mark.parametrize("content", [b"", b"RIFF\xff\xfe", b"[" * 100_000, b"PK\x03\x04"])
def test_other_files(folder, content):
    (folder / "a.voice").write_bytes(content)
    with pytest.raises(VoiceFileError, match=r"a\.voice is no voice, or was cut short"):
        Voice.load("a.voice")


def test_a_file_that_was_cut_short(folder):
    Voice(CODES, "[S1] Hello.").save("a.voice")
    content = (folder / "a.voice").read_bytes()
    for size in range(len(content) - 2):
        (folder / "a.voice").write_bytes(content[:size])
        with pytest.raises(VoiceFileError, match="cut short"):
            Voice.load("a.voice")
