"""``dia-ort plan``."""

import io
import json
import sys

import numpy as np
import pytest

from dia_ort.anchors import Room
from dia_ort.artifacts import list_artifacts
from dia_ort.config import GenerationConfig
from dia_ort.plan import PlanLimits
from dia_ort.script import parse_script
from dia_ort.voice import Voice

pytestmark = pytest.mark.usefixtures("nothing_loads")

SOME = b"Some words are here. " * 40
SCRIPT = "[S1] “Hello” there. [S2] Hi! (giggles) [pause 0.8s] [S1] Bye."


def test_a_table_the_totals_and_what_was_found(dia_ort, tmp_path):
    (tmp_path / "script.txt").write_text(SCRIPT, "utf-8")
    code, out, err = dia_ort("plan", "script.txt")
    assert (code, err) == (0, "")
    head, first, second, *rest = out.decode().splitlines()
    assert head.split() == ["CHUNK", "START", "LENGTH", "PAUSE", "SPEAKERS", "TEXT"]
    assert first.split()[:6] == ["1", "0:00.0", "1.9", "s", "0.8", "s"]
    assert first.endswith('S1 S2     [S1] "Hello" there. [S2] Hi! (giggles) [S1]')
    assert second.split()[:5] == ["2", "0:02.7", "0.3", "s", "S1"]
    assert second.endswith("[S1] Bye. [S2]")
    assert rest[:2] == ["", "2 chunks, about 0:03.1: 0:02.3 of speech and 0:00.8 of pauses"]
    assert "  1 x  quote  '“' -> '\"'" in rest
    assert any("(giggles) is not a non-verbal" in line for line in rest)
    assert any("chunk 2 has 0.3 s of speech, not 5 to 20 s" in line for line in rest)


def test_it_reads_stdin_and_windows_files(dia_ort):
    code, out, _ = dia_ort("plan", "-", stdin="\ufeffHello,\r\nworld. [pause 1s] Bye.".encode())
    assert code == 0
    assert b"[S1] Hello, world. [S2]\n" in out
    assert rb"'\r\n' -> '\n'" in out


def test_a_text_from_the_command_line(dia_ort):
    code, out, _ = dia_ort("plan", "--text", "Hi.", "--no-closing-tag")
    assert code == 0
    assert b"[S1] Hi.\n" in out


def test_a_short_text_stays_as_it_stands(dia_ort):
    """As speak speaks it."""
    done = dia_ort("plan", "--text", "“Hello” world.")
    assert "[S1] “Hello” world.\n" in done.out.decode()
    assert b"changed" not in done.out
    assert "[S1] is put before it" in done.err


def test_names_of_speakers(dia_ort):
    text = "Ann: Hi.\nBob: Ho.\nCid = C: no name.\nCid: Hm."
    code, out, _ = dia_ort("plan", "--text", text, "--speaker", "Ann=S2", "--speaker", " cid = S2")
    assert code == 0
    assert b"[S2] Hi. [S1] Ho. Cid = C: no name. [S2] Hm." in out


def test_limits(dia_ort):
    text = " ".join(["Some words are here."] * 10)
    (short, long) = (
        json.loads(dia_ort("plan", "--text", text, "--json", *options).out)["plan"]["chunks"]
        for options in (("--min-seconds", 1, "--max-seconds", 3), ())
    )
    assert all(1 <= chunk["seconds"] <= 3 for chunk in short)
    assert len(long) == 1


def test_json_has_the_plan_and_the_script(dia_ort):
    code, out, err = dia_ort("plan", "--text", SCRIPT, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    plan, script = result["plan"], result["script"]
    assert plan["seconds"] == pytest.approx(3.1, abs=0.1)
    assert plan["chunks"][1]["text"] == "[S1] Bye. [S2]"
    assert plan["chunks"][1]["spans"] == [{"turn": 3, "start": 0, "end": 4}]
    assert script["items"][2:] == [{"seconds": 0.8}, {"speaker": "S1", "sentences": ["Bye."]}]
    assert script["changes"][0] == {"kind": "quote", "before": "“", "after": '"', "count": 1}
    assert len(script["warnings"]) == 1


def test_it_shows_the_chunks_that_speak_makes(dia_ort):
    script = parse_script("Some words are here. " * 40)
    room = Room(list_artifacts()[-1].manifest, GenerationConfig())
    voice = Voice(np.zeros((1000, 9), int), "[S1] yes.")
    voice.save("./ann.voice")
    for options, beside in (((), None), (("--voice", "ann.voice"), voice)):
        result = json.loads(dia_ort("plan", "-", "--json", *options, stdin=SOME).out)["plan"]
        chunks = room.plan(script, PlanLimits(), beside).chunks
        assert [chunk["text"] for chunk in result["chunks"]] == [chunk.text for chunk in chunks]
        assert len(chunks) > 3


def test_a_terminal_that_is_not_utf8(dia_ort, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    assert dia_ort("plan", "--text", "[S1] Hi \U0001f600 there.").code == 0
    out.flush()
    assert rb"Hi \U0001f600 there." in out.buffer.getvalue()


def test_a_long_text_is_wrapped_and_whole(dia_ort, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = " ".join(f"Word {i}." for i in range(30))
    lines = dia_ort("plan", "--text", text).out.decode().splitlines()[1:]
    column = lines[0].index("[S1]")
    table = lines[: lines.index("")]
    assert max(map(len, table)) <= 100
    assert " ".join(line[column:] for line in table) == f"[S1] {text}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either as FILE"),
        (("-", "--text", "Hi."), "either as FILE"),
        (("missing.txt",), "cannot read the script missing.txt"),
        (("[S1] hello world.",), "a script itself is given with --text"),
        (("[S1] hello world. " * 100,), "a script itself is given with --text"),
        (("--text", ""), "no words"),
        (("--text", "[S3] Hi."), "the tag [S3]"),
        (("--text", "Hi. [pause 1h]"), "[pause 1h]"),
        (("--text", "Hi.", "--speaker", "Ann"), 'write it like "Ann=S1"'),
        (("--text", "Hi.", "--speaker", "Ann=S4"), "S1 or S2"),
        (("--text", "Hi.", "--speaker", "Ann=S1", "--speaker", "Ann=S2"), "to S1 and to S2"),
        (("--text", "A: a\nB: b\nC: c"), '--speaker "C=S1"'),
        (("--text", "Hi.", "--min-seconds", 30), "30 to 20 seconds"),
    ],
)
def test_mistakes(dia_ort, arguments, message):
    code, out, err = dia_ort("plan", *arguments)
    assert (code, out) == (2, b"")
    assert err.startswith("error: ")
    assert message in err
