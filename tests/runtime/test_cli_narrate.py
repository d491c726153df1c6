"""``dia-ort speak`` with scripts of several chunks."""

import re

import pytest
import soundfile

from dia_ort.cli_narrate import is_short
from dia_ort.script import parse_script

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
    assert is_short(parse_script(text)) == short


def test_a_dialogue_with_a_pause_and_subtitles(dia_ort, tmp_path):
    code, out, err = dia_ort(
        *("speak", DIALOGUE, "-o", "d.wav", "--srt", "d.srt", "--vtt", "d.vtt", *QUICK),
        *("--retries", 0),
    )
    assert (code, out) == (0, b"")
    duration = soundfile.info("d.wav").duration
    assert f"d.wav: {duration:.2f} s of speech in" in err
    assert "2 of 2 chunks\n" in err
    assert "Ann speaks as S1, Bob speaks as S2" in err
    assert "2 replacements in the text" in err
    assert "chunk 1, at 0.0 s, may have come out badly (one try)" in err
    srt, vtt = (tmp_path / "d.srt").read_text(), (tmp_path / "d.vtt").read_text()
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
    assert re.search(r", ([3-9]) of \1 chunks", whole.err)
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
        (["hi.", "--trim-silence", -1], "max_silence"),
        (["hi.", "--speed", 5], "speed"),
        (["hi.", "--srt", "no/such.srt"], "make the folder no first"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(dia_ort, arguments, message):
    code, out, err = dia_ort("speak", *arguments, "-o", "x.wav")
    assert (code, out) == (2, b"")
    assert message in err
