"""``dia-ort`` as a process of its own: Ctrl-C, pipes, terminals, and what it loads."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from dia_ort.cli_terminal import Terminal

FULL = Path("/dev/full")

MAIN = "from dia_ort.cli import main; main()"

# Slow speech without end: a line on stderr for each step.
ENDLESS = f"""
import sys, time
import dia_ort.scheduler as scheduler

draw = scheduler.draw

def draw_slowly(*arguments, **named):
    time.sleep(0.005)
    print("step", file=sys.stderr, flush=True)
    return draw(*arguments, **named) % 1024

scheduler.draw = draw_slowly
{MAIN}
"""

# As above, and decoding takes for ever.
STUCK = f"""
import sys, time
from dia_ort.dia import Dia

def decode_codes(*_, **__):
    print("decoding", file=sys.stderr, flush=True)
    time.sleep(60)

Dia.decode_codes = decode_codes
{ENDLESS}
"""

# As above, from the third chunk on; Ctrl-C in it is told.
STUCK_LATER = f"""
import sys, time
from dia_ort.cli_terminal import CtrlC
from dia_ort.dia import Dia

decode, press = Dia.decode_codes, CtrlC._press

def decode_codes(self, codes, context):
    if len(codes) < 32:
        return decode(self, codes, context)
    print("decoding", file=sys.stderr, flush=True)
    time.sleep(60)

def tell(*arguments):
    press(*arguments)
    print("pressed", file=sys.stderr, flush=True)

Dia.decode_codes, CtrlC._press = decode_codes, tell
{ENDLESS}
"""

LOADING = f"""
import sys, time
from dia_ort.dia import Dia

def load(*_, **__):
    print("loading", file=sys.stderr, flush=True)
    time.sleep(60)

Dia.load = load
{MAIN}
"""

LIST_HEAVY = f"""
import atexit, sys

HEAVY = {{"huggingface_hub", "onnx", "onnxruntime", "soundfile", "soxr", "torch", "transformers"}}
atexit.register(lambda: print("loaded:", sorted(HEAVY & sys.modules.keys())))
{MAIN}
"""

SPEAK = ("speak", "[S1] hello world.", "--model", "demo", "--seed", "7")

posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")


@pytest.fixture
def start(tmp_path):
    """Starts ``dia-ort`` (or other code) in an empty folder; ends it with the test."""
    processes = []

    def start_process(*arguments, code=MAIN, **options):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=tmp_path, **pipes)
        processes.append(process)
        return process

    yield start_process
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(process, word, times=1):
    """Read stderr up to the lines of a word."""
    for line in process.stderr:
        times -= line.strip() == word
        if not times:
            return
    pytest.fail(f"it ended without saying {word!r}")


@posix
def test_ctrl_c_keeps_what_is_done(start, tmp_path):
    process = start(*SPEAK, "-o", "hello.wav", code=ENDLESS)
    wait_for(process, b"step", 60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"stopping: what is spoken so far is kept" in err
    assert b"stopped by Ctrl-C" in err
    assert b"Traceback" not in err
    assert 0.4 < soundfile.info(tmp_path / "hello.wav").duration < 10


@posix
def test_ctrl_c_keeps_what_is_done_on_stdout_too(start):
    process = start(*SPEAK, "-o", "-", code=ENDLESS)
    wait_for(process, b"step", 60)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert soundfile.info(io.BytesIO(out)).duration > 0.4


@posix
def test_ctrl_c_ends_a_stream_with_what_is_done(start, tmp_path):
    process = start(*SPEAK, "--stream", "-o", "hello.wav", code=ENDLESS)
    wait_for(process, b"step", 60)
    before = soundfile.info(tmp_path / "hello.wav").duration
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"stopped by Ctrl-C" in err
    assert b"Traceback" not in err
    assert 0 < before < soundfile.info(tmp_path / "hello.wav").duration < 10


@posix
def test_a_second_ctrl_c_keeps_what_a_stream_has_written(start, tmp_path):
    process = start(*SPEAK, "--stream", "-o", "hello.wav", code=STUCK_LATER)
    wait_for(process, b"decoding")
    process.send_signal(signal.SIGINT)
    wait_for(process, b"pressed")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"stopped: no more is written" in err
    assert b"Traceback" not in err
    assert soundfile.info(tmp_path / "hello.wav").frames == 512 * (4 + 8)


@posix
def test_a_stream_comes_while_it_is_spoken(start):
    process = start(*SPEAK, "--stream", "-o", "-", code=ENDLESS, stderr=subprocess.DEVNULL)
    first = process.stdout.read(44 + 2 * 512 * 4)
    assert len(first) == 44 + 2 * 512 * 4
    assert process.poll() is None
    process.stdout.close()
    process.stdout = None
    process.wait(timeout=60)
    assert process.returncode == 141


@posix
def test_a_file_that_grows_survives_a_kill(start, tmp_path):
    process = start(*SPEAK, "--stream", "-o", "hello.wav", code=ENDLESS)
    wait_for(process, b"step", 60)
    process.kill()
    process.communicate(timeout=60)
    assert soundfile.info(tmp_path / "hello.wav").duration > 0.1


@posix
def test_a_second_ctrl_c_drops_it(start, tmp_path):
    process = start(*SPEAK, code=STUCK)
    wait_for(process, b"step", 60)
    process.send_signal(signal.SIGINT)
    wait_for(process, b"decoding")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"stopped: nothing was saved" in err
    assert b"Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@posix
def test_ctrl_c_before_anything_is_done(start, tmp_path):
    process = start(*SPEAK, code=LOADING)
    wait_for(process, b"loading")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert list(tmp_path.iterdir()) == []


CHUNKS = (
    *("speak", "hello world, this is dia. one two three four five. " * 12, "--model", "demo"),
    *("--max-tokens", "60", "--retries", "0"),
)


@posix
def test_ctrl_c_keeps_the_chunks_that_are_done(start, tmp_path):
    process = start(*CHUNKS, "-o", "hello.wav", "--srt", "hello.srt", code=ENDLESS)
    wait_for(process, b"step", 100)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"stopping: the chunks so far are kept" in err
    assert b"1 of " in err
    assert b"chunks, stopped by Ctrl-C" in err
    assert b"Traceback" not in err
    assert 0.4 < soundfile.info(tmp_path / "hello.wav").duration < 1
    assert "hello world" in (tmp_path / "hello.srt").read_text()


@posix
def test_ctrl_c_before_a_chunk_is_done(start, tmp_path):
    process = start(*CHUNKS, code=ENDLESS)
    wait_for(process, b"step", 20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"stopped: nothing was saved" in err
    assert b"Traceback" not in err
    assert not list(tmp_path.glob("*.wav"))


@posix
def test_ctrl_c_stops_a_batch_that_can_go_on(start, tmp_path):
    line = '{"text": "[S1] hello world.", "max_tokens": 60, "retries": 0}\n'
    (tmp_path / "in.jsonl").write_text(line * 12)
    process = start("batch", "in.jsonl", "--out-dir", "out", "--model", "demo", code=ENDLESS)
    wait_for(process, b"step", 90)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Start it again" in err
    assert b"Traceback" not in err
    # How many lines are done by then is the machine's affair; that they are kept is not.
    done = int(re.search(rb"stopped; (\d+) done", err)[1])
    record = (tmp_path / "out" / "batch.jsonl").read_text().splitlines()
    assert len(record) == done < 12
    spoken = list(tmp_path.glob("out/*.wav"))
    assert {json.loads(entry)["output"] for entry in record} <= {path.name for path in spoken}
    assert all(soundfile.info(path).frames for path in spoken)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "batch.jsonl",
        *(path.name for path in spoken),
    }


@posix
def test_ctrl_c_is_not_for_what_runs_in_the_background(start):
    shell = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{ENDLESS}"
    process = start(*SPEAK, "--max-tokens", "100", code=shell)
    wait_for(process, b"step", 30)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"cut off at the limit" in err


@posix
@pytest.mark.parametrize(
    "arguments",
    [
        (*SPEAK, "--max-tokens", "30", "-o", "-"),
        (*SPEAK, "--max-tokens", "30", "-o", "-", "--stream"),
        ("models",),
        ("info",),
        ("--help",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_broken_pipe_is_no_error(start, arguments):
    process = start(*arguments)
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141
    assert b"rror" not in err
    assert b"Traceback" not in err


@pytest.fixture
def full_disk():
    if not FULL.exists():
        pytest.skip("no /dev/full")
    with FULL.open("wb", buffering=0) as disk:
        yield disk


@pytest.mark.parametrize("output", ["-", str(FULL)])
def test_speech_survives_a_full_disk(start, tmp_path, full_disk, output):
    process = start(
        *(*SPEAK, "--max-tokens", "30", "-o", output, "--format", "wav"),
        stdout=full_disk,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    _, err = process.communicate(timeout=60)
    [kept] = tmp_path.glob("*.wav")
    assert process.returncode == 1
    assert b"error: cannot write " in err
    assert str(kept).encode() in err
    assert soundfile.info(kept).duration > 0


@pytest.mark.parametrize("output", ["-", str(FULL)])
def test_a_stream_ends_at_a_full_disk(start, full_disk, output):
    process = start(*SPEAK, "-o", output, "--format", "wav", "--stream", stdout=full_disk)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count(b"rror") == 1
    assert b"(No space left on device): the speech ends there" in err


def test_a_table_on_a_full_disk(start, full_disk):
    process = start("models", stdout=full_disk)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == b"error: [Errno 28] No space left on device\n"


@posix
def test_arguments_that_are_not_utf8(start):
    process = start("speak", b"[S1] caf\xe9")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"error: TEXT is not UTF-8 at byte 8" in err


@posix
def test_a_terminal_gets_a_progress_bar(start, tmp_path):
    ours, theirs = os.openpty()
    process = start(
        *SPEAK,
        *("-o", "hello.wav"),
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    seen = b""
    while b"seed 7" not in seen:
        seen += os.read(ours, 65536)
    process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    for words in (b"loading", b"speaking", b"x real time", b"decoding", b"hello.wav: "):
        assert words in seen


@posix
def test_the_bar_is_of_the_terminals_characters(monkeypatch):
    class Terminal8Bit(io.TextIOWrapper):
        def isatty(self):
            return True

    written = io.BytesIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal8Bit(written, "cp1252", "backslashreplace"))
    with Terminal(quiet=False).progress():
        pass
    sys.stderr.flush()
    assert b"loading" in written.getvalue()
    assert b"\\" not in written.getvalue()


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("speak", "--help"), ("models",), ("info",)]
)
def test_only_speaking_loads_what_is_heavy(start, arguments):
    process = start(*arguments, code=LIST_HEAVY)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.endswith(b"loaded: []\n")
