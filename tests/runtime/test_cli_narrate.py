"""``dia-ort speak`` with scripts of several chunks."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dia_ort import cli_speak
from dia_ort.anchors import Room
from dia_ort.artifacts import list_artifacts
from dia_ort.cli_narrate import find_short
from dia_ort.config import GenerationConfig
from dia_ort.dia import Dia
from dia_ort.engine import Engine
from dia_ort.joins import Joiner
from dia_ort.narration import NarrationOptions, Narrator
from dia_ort.script import parse_script
from dia_ort.voice import Voice

DIALOGUE = "**Ann:** hello world.\n**Bob (laughs):** yes, yes.\n\n[pause 0.8s]\n\nAnn: “go.”"
LONG = "hello world, this is dia. one two three four five. " * 12
QUICK = ("--model", "demo", "--threads", 1, "--seed", 7, "--max-tokens", 36)


def cues(text):
    times = re.findall(r"(\S+) --> (\S+)", text)
    return [tuple(map(seconds, pair)) for pair in times]


def seconds(clock):
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("hello world.", True),
        ("[S1] hello. [S2] world.", True),
        ("[S1] hello. [pause 1]", False),
        ("Ann: hello.\nBob: world.", False),
        (LONG, False),
    ],
)
def test_what_is_short(text, short):
    room = Room(list_artifacts()[-1].manifest, GenerationConfig())
    assert (find_short(parse_script(text), room, None) is not None) == short


def noise_voice(seconds, transcript="[S1] yes."):
    codes = np.random.default_rng(0).integers(0, 1024, (round(seconds * 86.13), 9))
    return Voice(codes, transcript, list_artifacts()[-1].manifest.codec_id)


def test_a_short_text_beside_a_long_voice_is_cut(dia_ort, monkeypatch):
    def narrate_to(_, dia, script, config, voice, options, *rest):
        with Engine(dia) as engine:
            seen.append(len(Narrator(engine, script, config, voice).plan.chunks))
        seen.append(options)
        return False

    seen = []
    monkeypatch.setattr(cli_speak, "narrate_to", narrate_to)
    noise_voice(30).save("long")
    text = "one two three four five six seven eight nine ten. yes. one two three four five six."
    assert dia_ort("speak", text, "--voice", "long", "--model", "demo").code == 0
    assert seen == [2, NarrationOptions()]


@pytest.mark.parametrize("text", ["[S1] hello world.", LONG])
def test_a_voice_that_leaves_no_room_is_refused(dia_ort, text):
    noise_voice(34).save("longer")
    code, _, err = dia_ort("speak", text, "--voice", "longer", "--model", "demo")
    assert code == 2
    assert "leaves too little room for speech" in err


def test_speech_of_nothing_is_no_file(dia_ort, tmp_path, monkeypatch):
    def silence(self, samples, *_):
        return add(self, samples[:0])

    add = Joiner.add
    monkeypatch.setattr(Joiner, "add", silence)
    for option in ((), ("--stream",)):
        arguments = ("yes. [pause 0] no.", *QUICK, "--retries", 0, "-o", "x.wav", *option)
        code, _, err = dia_ort("speak", *arguments)
        assert code == 1
        assert "error: nothing was spoken" in err
        assert list(tmp_path.iterdir()) == []


def test_a_dialogue_with_a_pause_and_subtitles(dia_ort, tmp_path):
    code, out, err = dia_ort(
        *("speak", DIALOGUE, "-o", "d.wav", "--srt", "d.srt", "--vtt", "d.vtt", *QUICK),
        *("--retries", 0),
    )
    assert (code, out) == (0, b"")
    duration = soundfile.info("d.wav").duration
    assert f"d.wav: {duration:.2f} s of speech in" in err
    assert "3 of 3 chunks\n" in err
    assert "Ann speaks as S1, Bob speaks as S2" in err
    assert "2 replacements in the text" in err
    assert "chunk 1, at 0.0 s, may have come out badly (one try)" in err
    srt, vtt = ((tmp_path / name).read_text("utf-8") for name in ("d.srt", "d.vtt"))
    assert "\nAnn: hello world.\n" in srt
    assert "\n<v Bob>(laughs) yes, yes.\n" in vtt
    times = cues(srt)
    assert times == cues(vtt)
    assert len(times) == 3
    assert times[2][0] - times[1][1] == pytest.approx(0.8, abs=0.002)
    assert times[-1][1] == pytest.approx(duration, abs=0.002)


def test_a_long_script_whole_and_streamed(dia_ort, tmp_path):
    whole = dia_ort("speak", LONG, "-o", "whole.wav", *QUICK, "--retries", 0)
    streamed = dia_ort(
        "speak", "-", "--stream", "-o", "-", *QUICK, "--retries", 0, stdin=LONG.encode()
    )
    assert (whole.code, streamed.code) == (0, 0)
    assert re.search(r", (\d+) of \1 chunks", whole.err)
    assert (tmp_path / "whole.wav").read_bytes()[44:] == streamed.out[44:]


def test_options_of_narration_do_not_change_a_short_text(dia_ort, tmp_path):
    for name, options in {"a": (), "b": ("--srt", "b.srt"), "c": ("--crossfade", 0.1)}.items():
        assert dia_ort("speak", "hello world.", "-o", f"{name}.wav", *QUICK, *options).code == 0
    files = [(tmp_path / f"{name}.wav").read_bytes() for name in "abc"]
    assert files[0] == files[1] == files[2]
    assert "hello world." in (tmp_path / "b.srt").read_text()


def test_bad_chunks_are_tried_again(dia_ort):
    err = dia_ort("speak", "hello world.", *QUICK, "--retries", 3).err
    assert "(the best of 4 tries): it ran to its most decoder steps" in err


def test_silence_pause_and_speed(dia_ort):
    pytest.importorskip("av")
    text = "hello. [pause 0] world."
    dia_ort("speak", text, "-o", "a.wav", *QUICK, "--retries", 0, "--crossfade", 0)
    dia_ort("speak", text, "-o", "b.wav", *QUICK, "--retries", 0, "--pause", 1, "--speed", 0.5)
    dia_ort("speak", text, "-o", "c.wav", *QUICK, "--retries", 0, "--trim-silence", 0)
    a, b, c = (soundfile.info(f"{name}.wav").duration for name in "abc")
    assert b == pytest.approx(2 * a + 1, abs=0.001)
    assert c <= a


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Ann: hi.\nBob: ho.\nCal: hm."], "'Cal'"),
        (["hi.", "--speaker", "Ann"], "--speaker"),
        (["hi.", "--speaker", "Ann=S3"], "S3"),
        (["hi. [pause 11]"], "pause"),
        (["hi.", "--retries", 11], "retries"),
        (["hi.", "--crossfade", -1], "crossfade"),
        (["hi.", "--trim-silence", -1], "error: --trim-silence is -1"),
        (["hi.", "--speed", 5], "speed"),
        (["hi.", "--srt", "x.wav"], "-o and --srt both name x.wav"),
        (["hi.", "--srt", "s", "--vtt", "./s"], "--srt and --vtt both name s"),
        (["hi.", "--vtt", "link.wav", "-o", "real.wav"], "-o and --vtt both name link.wav"),
        (["-f", "talk.txt", "--srt", "talk.txt"], "--file and --srt both name talk.txt"),
        (["-f", "talk.txt", "-o", "talk.txt", "--format", "wav"], "--file and -o both name"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(dia_ort, tmp_path, arguments, message):
    (tmp_path / "talk.txt").write_text("hi.")
    (tmp_path / "link.wav").symlink_to("real.wav")
    code, out, err = dia_ort("speak", "-o", "x.wav", *arguments)
    assert (code, out) == (2, b"")
    assert message in err
    assert (tmp_path / "talk.txt").read_text() == "hi."


@pytest.mark.usefixtures("nothing_loads")
def test_one_file_by_two_names(dia_ort, tmp_path):
    """As in a folder that takes TALK.TXT for talk.txt."""
    (tmp_path / "talk.txt").write_text("hi.")
    (tmp_path / "TALK.srt").hardlink_to(tmp_path / "talk.txt")
    code, _, err = dia_ort("speak", "-f", "talk.txt", "--srt", "TALK.srt")
    assert code == 2
    assert "--file and --srt both name TALK.srt" in err


@pytest.mark.usefixtures("nothing_loads")
def test_a_folder_that_refuses_files_is_tried_once(dia_ort, monkeypatch):
    """Windows says the same of a folder that refuses all names and of a name that is taken."""

    def refuse(path, flags, *_, **__):
        tried.append(path)
        raise PermissionError(13, "Permission denied")

    tried = []
    monkeypatch.setattr(os, "open", refuse)
    code, _, err = dia_ort("speak", "hi.", "-o", "x.wav")
    assert (code, len(tried)) == (1, 1)
    assert "error: cannot write x.wav (Permission denied): give another name" in err


@pytest.mark.usefixtures("nothing_loads")
def test_subtitles_over_the_default_name(dia_ort):
    code, _, err = dia_ort("speak", "hi.", "--srt", "speech.wav")
    assert code == 2
    assert "-o and --srt both name speech.wav" in err


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("option", ["--srt", "--vtt", "-o"])
def test_outputs_that_cannot_be_written(dia_ort, tmp_path, option):
    (tmp_path / "folder.wav").mkdir()
    for name, message in {
        "no/such.wav": "make the folder no first, or give another name or folder with",
        "folder.wav": "it is a folder",
    }.items():
        code, _, err = dia_ort("speak", "hi.", option, name)
        assert code == 1
        assert f"error: cannot write {Path(name)}" in err
        assert message in err


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="there is no /dev/null")
def test_subtitles_may_go_where_everything_does(dia_ort):
    arguments = ("--srt", "/dev/null", "--vtt", "/dev/null", *QUICK)
    assert dia_ort("speak", "yes.", *arguments).code == 0


def test_the_seed_is_told_before_subtitles_fail(dia_ort, tmp_path, monkeypatch):
    def load(*arguments, **options):
        (tmp_path / "out").rmdir()
        return real(*arguments, **options)

    real = Dia.load
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Dia, "load", load)
    code, _, err = dia_ort("speak", "yes.", *QUICK, "-o", "x.wav", "--srt", "out/x.srt")
    assert code == 1
    assert "seed 7" in err
    assert f"error: cannot write {Path('out/x.srt')}" in err
    assert soundfile.info("x.wav").duration > 0


@pytest.mark.parametrize("options", [(), ("--crossfade", 0.1)])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Ann: hello world."], "'Ann:' is read aloud"),
        (["[S1] yes. (laugh)"], "do you mean (laughs)?"),
        (["yes.", "--speaker", "Ann=S1"], "no line begins with 'ann'"),
    ],
)
def test_what_the_parser_warns_of_is_said_of_short_texts_too(dia_ort, arguments, message, options):
    err = dia_ort("speak", *arguments, *options, *QUICK, "-q").err
    assert err.count(message) == 1
