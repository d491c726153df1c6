"""``dia-ort batch``: lines, files that are there already, and kills at any point."""

import json
import os
import subprocess
import sys

import pytest
import soundfile

from dia_ort import GenerationConfig, Voice
from dia_ort.batch import RECORD, Failure, read_lines
from dia_ort.dia import Dia

SHORT = {"max_tokens": 30, "retries": 0}


def jsonl(*records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def run(dia_ort, *records, options=()):
    return dia_ort(
        *("batch", "-", "--out-dir", "out", "--model", "demo", "--threads", 1, *options),
        stdin=jsonl(*records),
    )


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestLines:
    def read(self, *records):
        return list(read_lines(jsonl(*records), "wav"))

    def test_names(self):
        records = [{"text": "a"}, {"id": "b"}, {"id": 7}, {"output": "sub/c.flac"}, {"id": None}]
        lines = self.read(*({"text": "Hi.", **record} for record in records))
        names = ["0001.wav", "b.wav", "7.wav", "sub/c.flac", "0005.wav"]
        assert [line.output for line in lines] == names

    def test_settings(self):
        (line,) = self.read({"text": "Hi.", "seed": 3, "top_p": 0.5, "retries": 4, "speed": 1})
        assert line.config == GenerationConfig(seed=3, top_p=0.5)
        assert (line.options.retries, line.options.speed) == (4, 1)
        assert self.read({"text": "Hi."})[0].config.seed == 0

    def test_blank_lines_are_counted_and_left_out(self):
        lines = list(read_lines(b'\xef\xbb\xbf{"text": "a"}\r\n\n \n{"text": "b"}', "mp3"))
        assert [line.output for line in lines] == ["0001.mp3", "0004.mp3"]

    @pytest.mark.parametrize(
        ("record", "reason"),
        [
            ({}, "no 'text'"),
            ({"text": 5}, "no 'text'"),
            ([], "no object"),
            ({"text": "[S1] [S2]"}, "no words"),
            ({"text": "Hi. [pause 99]"}, "pause"),
            ({"text": "Hi.", "colour": 1}, "unknown 'colour'"),
            ({"text": "Hi.", "seed": -1}, "seed"),
            ({"text": "Hi.", "temperature": "hot"}, "temperature"),
            ({"text": "Hi.", "retries": 1.5}, "retries"),
            ({"text": "Hi.", "retries": True}, "retries"),
            ({"text": "Hi.", "speed": "fast"}, "speed"),
            ({"text": "Hi.", "pause": 99}, "pause"),
            ({"text": "Hi.", "voice": 5}, "voice"),
            ({"text": "Hi.", "speakers": ["Ann"]}, "speakers"),
            ({"text": "Hi.", "speakers": {"Ann": "S3"}}, "S3"),
            *(
                ({"text": "Hi.", "output": name}, "no name for an output")
                for name in (
                    "../x.wav",
                    "/x.wav",
                    "",
                    "a/../x.wav",
                    "a/.wav",
                    "a//b.wav",
                    "b.wav/",
                    "a.wav/b.wav",
                    "~/x.wav",
                    5,
                )
            ),
            *(
                ({"text": "Hi.", "output": name}, "is a device's")
                for name in ("nul.wav", "Con.2.flac", "a/COM0/b.wav", "lpt9/b.wav")
            ),
            ({"text": "Hi.", "id": "AUX"}, "'AUX.wav' is a device's"),
            ({"text": "Hi.", "output": RECORD}, "tells no audio format"),
            ({"text": "Hi.", "id": ".hidden"}, "no name for an output"),
            ({"text": "Hi.", "id": True}, "'id' is True"),
            ({"text": "Hi.", "id": 1.5}, "'id' is 1.5"),
        ],
    )
    def test_what_cannot_be_read_fails_alone(self, record, reason):
        first, second = self.read(record, {"text": "Hi."})
        assert isinstance(first, Failure)
        assert reason in first.reason
        assert second.output == "0002.wav"

    def test_no_json(self):
        failures = list(read_lines(b'{"text": "a"\n\xff\n' + b"[" * 100_000, "wav"))
        assert [failure.number for failure in failures] == [1, 2, 3]
        assert all("no JSON" in failure.reason for failure in failures)

    def test_an_output_is_one_lines(self):
        _, second = self.read({"text": "a", "id": "x"}, {"text": "b", "output": "X.wav"})
        assert "line 1 has the output" in second.reason


class TestBatch:
    def test_it_speaks_all_lines(self, dia_ort, tmp_path):
        code, out, err = run(
            dia_ort,
            {"text": "[S1] yes.", "id": "yes", "seed": 7, **SHORT},
            {"text": "Ann: go.\nBob: stop. [pause 0.5]", "output": "more/two.flac", **SHORT},
            options=("--format", "ogg"),
        )
        assert (code, out) == (0, b"")
        assert "out: 2 done (" in err
        assert "0 skipped, 0 failed" in err
        assert set(contents(tmp_path / "out")) == {"yes.ogg", "more/two.flac", RECORD}
        assert soundfile.info("out/more/two.flac").duration > 0.5

    def test_a_line_is_what_speak_makes_of_it(self, dia_ort, tmp_path):
        run(dia_ort, {"text": "[S1] yes.", "seed": 7, **SHORT})
        dia_ort(
            *("speak", "[S1] yes.", "--seed", 7, "--max-tokens", 30, "--threads", 1),
            *("--model", "demo", "-o", "yes.wav"),
        )
        assert (tmp_path / "yes.wav").read_bytes() == (tmp_path / "out/0001.wav").read_bytes()

    def test_a_failed_line_fails_alone(self, dia_ort, tmp_path):
        code, _, err = run(
            dia_ort,
            {"text": "[S1] yes.", **SHORT},
            {"text": "[S1] no.", "voice": "nobody"},
            {"text": "[S1] no.", "max_tokens": 9999},
        )
        assert code == 1
        assert "line 2 failed: there is no voice 'nobody'" in err
        assert "line 3 failed: max_tokens is 9999" in err
        assert "1 done" in err
        assert set(contents(tmp_path / "out")) == {"0001.wav", RECORD}

    def test_what_is_there_is_not_made_again(self, dia_ort, tmp_path):
        first = {"text": "[S1] yes.", **SHORT}
        assert "1 done" in run(dia_ort, first).err
        before = (tmp_path / "out/0001.wav").stat().st_mtime_ns
        assert "0 done (0.0 s" in (err := run(dia_ort, first).err)
        assert "1 skipped" in err
        assert (tmp_path / "out/0001.wav").stat().st_mtime_ns == before

    @pytest.mark.parametrize(
        "change",
        [
            {"text": "[S1] no."},
            {"seed": 1},
            {"max_tokens": 31},
            {"crossfade": 0.1},
            {"voice": "ann.voice"},
        ],
    )
    def test_a_changed_line_is_made_again(self, dia_ort, change):
        dia = Dia.load("demo", provider="cpu", threads=1)
        codes = dia.generate_codes("[S1] yes.", GenerationConfig(seed=1, max_tokens=20))
        Voice(codes, "[S1] yes.").save("./ann.voice")
        first = {"text": "[S1] yes.", **SHORT}
        run(dia_ort, first, first | {"id": "same"})
        err = run(dia_ort, first | change, first | {"id": "same"}).err
        assert "1 done" in err
        assert "1 skipped" in err

    @pytest.mark.parametrize("damage", ["missing", "cut", "unknown"])
    def test_what_is_not_whole_is_made_again(self, dia_ort, tmp_path, damage):
        first = {"text": "[S1] yes.", **SHORT}
        run(dia_ort, first)
        before = contents(tmp_path / "out")
        audio, record = tmp_path / "out/0001.wav", tmp_path / "out" / RECORD
        if damage == "missing":
            audio.unlink()
        elif damage == "cut":
            audio.write_bytes(b"RIFF")
        else:
            record.write_bytes(b'\xff\n[]\n5\n{"output": "0001.wav"}\n{"output": "000')
        assert "1 done" in run(dia_ort, first).err
        assert contents(tmp_path / "out") == before

    def test_what_came_out_badly_is_said_again(self, dia_ort):
        line = {"text": "[S1] yes. (laugh)", **SHORT}
        first, second = run(dia_ort, line).err, run(dia_ort, line).err
        assert "line 1 (0001.wav): (laugh) is not a non-verbal" in first
        assert "1 skipped" in second
        for err in (first, second):
            assert "line 1 (0001.wav) may have come out badly: chunk 1, at 0.0 s: it ran" in err

    def test_a_record_without_faults_is_one_of_none(self, dia_ort, tmp_path):
        line = {"text": "[S1] yes.", **SHORT}
        run(dia_ort, line)
        record = tmp_path / "out" / RECORD
        entry = json.loads(record.read_text())
        del entry["faults"]
        record.write_text(json.dumps(entry))
        assert "1 skipped" in run(dia_ort, line).err

    @pytest.mark.usefixtures("nothing_loads")
    def test_a_folder_that_cannot_be_made(self, dia_ort, tmp_path):
        (tmp_path / "a.wav").touch()
        code, _, err = dia_ort("batch", "-", "--out-dir", "a.wav", stdin=b'{"text": "a"}')
        assert code == 1
        assert "error: cannot make the folder a.wav" in err
        assert "--out-dir" in err

    @pytest.mark.usefixtures("nothing_loads")
    def test_the_record_does_not_replace_the_lines(self, dia_ort, tmp_path):
        (tmp_path / RECORD).write_bytes(jsonl({"text": "a"}))
        code, _, err = dia_ort("batch", RECORD, "--out-dir", ".")
        assert code == 2
        assert "FILE and --out-dir both name batch.jsonl" in err
        assert (tmp_path / RECORD).read_bytes() == jsonl({"text": "a"})

    @pytest.mark.usefixtures("nothing_loads")
    def test_the_file_is_read_before_a_model_is_loaded(self, dia_ort):
        code, _, err = dia_ort("batch", "missing.jsonl", "--out-dir", "out")
        assert code == 2
        assert "cannot read" in err


KILLED = """
import os, sys
from pathlib import Path
from dia_ort.batch import Batch, RECORD
from dia_ort.cli import main

left = int(sys.argv.pop(1))

def may_die(before=lambda: None):
    global left
    left -= 1
    if left == 0:
        before()
        os._exit(9)  # nothing is tidied up, as by SIGKILL, which Windows lacks

write_bytes, replace, note = Path.write_bytes, Path.replace, Batch.note

def half_written(path, content):
    may_die(lambda: write_bytes(path, content[: len(content) // 2]))
    return write_bytes(path, content)

def renamed(path, target):
    may_die()
    result = replace(path, target)
    may_die()
    return result

def cut_short(batch, line, spoken):
    may_die(lambda: (batch._folder / RECORD).open("a").write('{"output": "' + line.output))
    note(batch, line, spoken)

Path.write_bytes, Path.replace, Batch.note = half_written, renamed, cut_short
main()
"""


def test_a_batch_that_is_killed_again_and_again_makes_the_same_files(tmp_path):
    """In the middle of writing a file, before and after it gets its name, and in the record."""
    words = ["yes.", "no.", "go.", "stop. [pause 0.1] yes.", "red.", "green."]
    lines = [{"text": f"[S1] {word}", **SHORT} for word in words]
    (tmp_path / "in.jsonl").write_bytes(jsonl(*lines))

    def start(folder, kill_at):
        command = ["batch", str(tmp_path / "in.jsonl"), "--out-dir", str(tmp_path / folder)]
        return subprocess.run(
            [
                *(sys.executable, "-c", KILLED, str(kill_at), *command),
                *("--model", "demo", "--threads", "1"),
            ],
            env={**os.environ, "DIA_ORT_HOME": str(tmp_path)},
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode

    assert start("whole", 0) == 0
    for kill_at in (1, 2, 4, 5, 6, 7, 11, 12):
        assert start("killed", kill_at) == 9
    assert start("killed", 0) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 7
