"""``dia-ort speak`` in this process.

Voices are in test_cli_voice, ``--stream`` in test_cli_stream; signals, pipes and terminals in
test_cli_processes.
"""

import io
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dia_ort import providers, scheduler
from dia_ort.audio import _FORMATS
from dia_ort.cli_output import AudioFormat
from dia_ort.dia import Dia

TEXT = "[S1] hello world."
SHORT = ("--model", "demo", "--seed", 7, "--max-tokens", 30)


def duration(file):
    return soundfile.info(file).duration


def test_it_says_where_the_speech_is_and_how_it_came_about(dia_ort):
    code, out, err = dia_ort("speak", TEXT, "-o", "hello.wav", *SHORT)
    assert (code, out) == (0, b"")
    assert f"hello.wav: {duration('hello.wav'):.2f} s of speech in " in err
    assert "x real time), cut off at the limit\n" in err
    assert "warning: it came to its most decoder steps" in err
    assert "raise --max-tokens" in err
    assert "seed 7, model demo (" in err
    assert ") on cpu" in err


def test_the_model_ends_it(dia_ort):
    code, _, err = dia_ort("speak", TEXT, "--model", "demo", "--seed", 7)
    assert code == 0
    assert "ended by itself\n" in err
    assert "--max-tokens" not in err


def test_the_demo_says_that_it_is_one_and_how_to_get_more(dia_ort):
    err = dia_ort("speak", TEXT, *SHORT).err
    assert err.count("built-in demo") == 1
    assert "pip install 'dia-ort[export]', then dia-export --dtype int4" in err


def test_a_model_in_a_folder_is_no_demo(dia_ort, tmp_path):
    demo = Path(providers.__file__).parent / "demo"
    (tmp_path / "elsewhere").symlink_to(demo)
    code, _, err = dia_ort("speak", TEXT, "--model", "elsewhere", "--max-tokens", 40)
    assert code == 0
    assert "built-in" not in err


def test_the_same_seed_gives_the_same_bytes(dia_ort):
    first, second, third = (
        dia_ort("speak", TEXT, *SHORT, "--seed", seed, "-o", "-").out for seed in (1, 1, 2)
    )
    assert first == second
    assert first != third


def test_settings_reach_the_model(dia_ort):
    greedy = [
        dia_ort("speak", TEXT, *SHORT, "--seed", seed, "--temperature", 0, "-o", "-").out
        for seed in (1, 2)
    ]
    assert greedy[0] == greedy[1]
    for option in (("--cfg-scale", 0), ("--top-p", 0.1), ("--top-k", 1), ("--threads", 1)):
        assert dia_ort("speak", TEXT, *SHORT, *option).code == 0


def test_quiet_prints_nothing(dia_ort):
    assert dia_ort("speak", TEXT, "--model", "demo", "--seed", 7, "-q") == (0, b"", "")


def test_speech_that_was_cut_off_is_warned_of_in_any_case(dia_ort):
    err = dia_ort("speak", TEXT, *SHORT, "-q").err
    assert err.startswith("warning: it came to its most decoder steps")
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["-q", "--stream"])
def test_speech_of_an_odd_length_is_warned_of(dia_ort, monkeypatch, option):
    monkeypatch.setattr("dia_ort.cli_speak.find_fault", lambda *_: "it is silent")
    err = dia_ort("speak", TEXT, "--model", "demo", "--seed", 7, option).err
    assert "warning: it may have come out badly, and another --seed may help: it is silent\n" in err


# Scripts


@pytest.mark.parametrize("script", ["hello world.", "hello. [S2] world."])
def test_a_script_that_begins_without_tag_gets_one(dia_ort, script):
    tagged = dia_ort("speak", f"[S1] {script}", *SHORT, "-o", "-")
    bare = dia_ort("speak", script, *SHORT, "-o", "-")
    assert bare.out == tagged.out
    assert "note: the script begins with neither [S1] nor [S2]: [S1] is put before it\n" in bare.err
    assert "[S1]" not in tagged.err


@pytest.mark.parametrize("script", ["[s1] hello world.", "[ S 1 ] hello world."])
def test_tags_that_only_people_can_read(dia_ort, script):
    tagged = dia_ort("speak", TEXT, *SHORT, "-o", "-")
    for options in ((), ("--crossfade", 0.1)):
        loose = dia_ort("speak", script, *SHORT, *options, "-o", "-")
        assert loose.out == tagged.out
        assert "is put before it" not in loose.err


def test_a_file_given_as_text_is_warned_of(dia_ort, tmp_path):
    (tmp_path / "talk.txt").write_text("yes.")
    code, _, err = dia_ort("speak", "talk.txt", *SHORT, "-q")
    assert code == 0
    assert "warning: this speaks the words 'talk.txt': --file talk.txt speaks" in err


@pytest.mark.parametrize("content", [TEXT, f"\ufeff{TEXT}\r\n", f"\n\n{TEXT}  \n"])
def test_scripts_from_stdin_and_files(dia_ort, tmp_path, content):
    expected = dia_ort("speak", TEXT, *SHORT, "-o", "-").out
    (tmp_path / "script.txt").write_text(content, "utf-8", newline="")
    stdin = content.encode()
    assert dia_ort("speak", "-f", "script.txt", *SHORT, "-o", "-").out == expected
    assert dia_ort("speak", "-", *SHORT, "-o", "-", stdin=stdin).out == expected
    assert dia_ort("speak", "-f", "-", *SHORT, "-o", "-", stdin=stdin).out == expected


@pytest.mark.parametrize("arguments", [(), (TEXT, "--file", "script.txt")])
@pytest.mark.usefixtures("nothing_loads")
def test_the_script_is_given_once(dia_ort, arguments):
    code, _, err = dia_ort("speak", *arguments)
    assert code == 2
    assert "either as TEXT" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[S1] caf\xe9", "byte 8 is 0xe9"),
        (b"\xef\xbb\xbf[S1] caf\xe9", "byte 11 is 0xe9"),
        ("[S1] Hello.".encode("utf-16"), "byte 0 is 0xff"),
    ],
)
@pytest.mark.usefixtures("nothing_loads")
def test_a_script_must_be_utf8(dia_ort, tmp_path, content, message):
    (tmp_path / "script.txt").write_bytes(content)
    code, _, err = dia_ort("speak", "--file", "script.txt")
    assert code == 2
    assert f"error: the script script.txt is not UTF-8: {message}" in err
    code, _, err = dia_ort("speak", "-", stdin=content)
    assert code == 2
    assert f"error: the script on stdin is not UTF-8: {message}" in err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", "No such file"),
        (".", "Permission denied" if os.name == "nt" else "directory"),
        ("a\0b", "null byte"),
    ],
)
@pytest.mark.usefixtures("nothing_loads")
def test_a_script_must_be_readable(dia_ort, name, message):
    code, _, err = dia_ort("speak", "--file", name)
    assert code == 2
    assert "error: cannot read the script" in err
    assert message in err


@pytest.mark.usefixtures("nothing_loads")
def test_undecodable_arguments(dia_ort):
    code, _, err = dia_ort("speak", "h\u00e9llo \udcff")
    assert code == 2
    assert "error: TEXT is not UTF-8 at byte 7" in err


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (b"", "no words"),
        (b" \n", "no words"),
        (b"[S1] [S2]", "no words"),
        ("🙂".encode(), "no words"),
        (b"[S1] a\0b", "NUL character"),
        (b"[S1] a\x01b", "control character"),
    ],
)
def test_scripts_that_the_model_does_not_take(dia_ort, tmp_path, script, message):
    code, _, err = dia_ort("speak", "-", "--model", "demo", stdin=script)
    assert code == 2
    assert "error: the script " in err
    assert message in err
    assert list(tmp_path.iterdir()) == []


# Settings


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--temperature", -1),
        ("--temperature", "nan"),
        ("--temperature", 101),
        ("--cfg-scale", -0.5),
        ("--cfg-scale", "inf"),
        ("--top-p", 1.5),
        ("--top-p", -0.1),
        ("--top-k", 0),
        ("--seed", -1),
        ("--seed", 2**64),
        ("--max-tokens", 0),
        ("--temperature", "hot"),
        ("--seed", 1.5),
        ("--format", "aac"),
        ("--no-such-option", 1),
    ],
)
@pytest.mark.usefixtures("nothing_loads")
def test_settings_out_of_range(dia_ort, option, value):
    code, out, err = dia_ort("speak", TEXT, option, value)
    assert (code, out) == (2, b"")
    assert "rror: " in err


@pytest.mark.usefixtures("nothing_loads")
def test_errors_name_the_option(dia_ort):
    assert dia_ort("speak", TEXT, "--top-k", 0).err.startswith("error: --top-k is 0: ")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--max-tokens", 16, "leaves no step for speech"),
        ("--max-tokens", 100_000, "max_tokens is 100000"),
        ("--threads", 0, "threads is 0"),
        ("--provider", "tpu", "provider is 'tpu'"),
    ],
)
def test_settings_that_the_model_refuses(dia_ort, option, value, message):
    code, _, err = dia_ort("speak", TEXT, "--model", "demo", option, value)
    assert code == 2
    assert message in err


def test_a_provider_that_is_not_there(dia_ort, monkeypatch):
    monkeypatch.setattr(providers, "available_providers", lambda: ["cpu"])
    code, _, err = dia_ort("speak", TEXT, "--provider", "cuda")
    assert code == 1
    assert "the cuda provider is not in this onnxruntime" in err
    assert "dia-ort[gpu]" in err


def test_without_onnxruntime(dia_ort, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    providers.onnxruntime.cache_clear()
    code, _, err = dia_ort("speak", TEXT)
    assert code == 1
    assert "pip install 'dia-ort[cpu]'" in err


def test_a_model_that_is_not_there(dia_ort):
    code, _, err = dia_ort("speak", TEXT, "--model", "nosuch")
    assert code == 1
    assert "error: there is no model 'nosuch'" in err
    assert "demo" in err


def test_a_broken_model_is_not_passed_over_in_silence(dia_ort, tmp_path):
    (tmp_path / "models" / "broken").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "manifest.json").write_text("{")
    code, _, err = dia_ort("speak", TEXT, "--max-tokens", 40)
    assert code == 0
    assert "warning: " in err
    assert "broken" in err


# Outputs


def test_the_default_name_is_a_free_one(dia_ort, tmp_path):
    for _ in range(3):
        assert dia_ort("speak", TEXT, *SHORT).code == 0
    assert "speech.mp3: " in dia_ort("speak", TEXT, *SHORT, "--format", "mp3").err
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["speech-1.wav", "speech-2.wav", "speech.mp3", "speech.wav"]


def test_a_name_that_is_given_is_replaced(dia_ort, tmp_path):
    (tmp_path / "hello.wav").write_bytes(b"old")
    assert dia_ort("speak", TEXT, *SHORT, "-o", "hello.wav").code == 0
    assert duration("hello.wav") > 0
    assert [path.name for path in tmp_path.iterdir()] == ["hello.wav"]


def test_the_formats_are_those_of_the_library():
    assert list(AudioFormat) == list(_FORMATS)


@pytest.mark.parametrize("name", list(AudioFormat))
def test_formats_by_suffix_and_by_option(dia_ort, name):
    assert dia_ort("speak", TEXT, *SHORT, "-o", f"hello.{name.upper()}").code == 0
    info = soundfile.info(f"hello.{name.upper()}")
    code, out, err = dia_ort("speak", TEXT, *SHORT, "-o", "-", "--format", name)
    piped = soundfile.info(io.BytesIO(out))
    assert code == 0
    assert (piped.format, piped.subtype) == (info.format, info.subtype)
    assert "stdout: " in err


def test_stdout_has_the_audio_and_nothing_else(dia_ort):
    assert dia_ort("speak", TEXT, *SHORT, "-o", "hello.wav").code == 0
    code, out, _ = dia_ort("speak", "hello world.", *SHORT, "-o", "-")
    assert code == 0
    assert out == Path("hello.wav").read_bytes()


@pytest.mark.usefixtures("nothing_loads")
def test_a_terminal_gets_no_audio(dia_ort, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, err = dia_ort("speak", TEXT, "-o", "-")
    assert (code, out) == (2, b"")
    assert "stdout is a terminal" in err


@pytest.mark.parametrize("name", ["hello", "hello.aac", "hello.wav.txt", "hello.wav/", ".wav"])
@pytest.mark.usefixtures("nothing_loads")
def test_an_unknown_suffix(dia_ort, name):
    code, _, err = dia_ort("speak", TEXT, "-o", name)
    assert code == 2
    assert "tells no audio format: end it in one of .wav, .flac" in err


@pytest.mark.parametrize(
    "name", ["missing/hello.wav", "folder.wav", "file/hello.wav", "a\0b.wav", "x" * 300 + ".wav"]
)
@pytest.mark.usefixtures("nothing_loads")
def test_a_place_that_cannot_be_written(dia_ort, tmp_path, name):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").touch()
    code, _, err = dia_ort("speak", TEXT, "-o", name)
    assert code == 1
    assert "error: cannot write" in err


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
@pytest.mark.usefixtures("nothing_loads")
def test_a_folder_without_permission(dia_ort, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    code, _, err = dia_ort("speak", TEXT, "-o", "locked/hello.wav")
    assert code == 1
    assert "Permission denied" in err


@pytest.mark.usefixtures("nothing_loads")
def test_audio_libraries_are_looked_for_first(dia_ort, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    code, _, err = dia_ort("speak", TEXT)
    assert code == 1
    assert "cannot write wav here" in err
    assert "dia-ort doctor" in err


def test_speech_that_cannot_be_saved_is_kept_elsewhere(dia_ort, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "kept"))
    start = Dia.start

    def start_late(*arguments):
        (tmp_path / "out").rmdir()
        return start(*arguments)

    monkeypatch.setattr(Dia, "start", start_late)
    code, _, err = dia_ort("speak", TEXT, *SHORT, "-o", "out/hello.wav")
    [kept] = (tmp_path / "kept").iterdir()
    assert code == 1
    assert f"error: cannot write {Path('out/hello.wav')}" in err
    assert f"The speech is kept in {kept}" in err
    assert duration(kept) > 0


def test_no_frames_no_file(dia_ort, tmp_path, monkeypatch):
    def draw(candidates, *_, eos_token_id, **__):
        return np.full(candidates.tokens.shape[:2], eos_token_id)

    monkeypatch.setattr(scheduler, "draw", draw)
    for option in ((), ("--stream",), ("--stream", "-o", "-")):
        code, out, err = dia_ort("speak", TEXT, "--model", "demo", *option)
        assert (code, out) == (1, b"")
        assert "error: nothing was spoken" in err
        assert list(tmp_path.iterdir()) == []


# Messages


def test_warnings_of_the_library_are_lines(dia_ort, monkeypatch):
    start = Dia.start

    def start_with_warning(*arguments):
        warnings.warn("this is\nslow", stacklevel=2)
        return start(*arguments)

    monkeypatch.setattr(Dia, "start", start_with_warning)
    assert dia_ort("speak", TEXT, *SHORT, "-q").err.startswith("warning: this is slow\n")


def test_faults_of_dia_ort_itself_keep_their_traceback(monkeypatch, dia_ort):
    def load(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Dia, "load", load)
    with pytest.raises(RuntimeError, match="a bug"):
        dia_ort("speak", TEXT)
