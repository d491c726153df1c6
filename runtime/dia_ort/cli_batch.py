"""``dia-ort batch``: many scripts, one JSON object to the line, to a folder of audio."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from dia_ort.batch import RECORD, Batch, Failure, Line, Spoken, read_lines
from dia_ort.cli_input import read_bytes
from dia_ort.cli_narrate import AT_ONCE
from dia_ort.cli_options import Provider, ProviderOptions, Quiet, Threads
from dia_ort.cli_output import AudioFormat, check_apart, check_place
from dia_ort.cli_terminal import Terminal
from dia_ort.dia import Dia
from dia_ort.engine import Engine
from dia_ort.errors import DiaError
from dia_ort.providers import parse_provider_options
from dia_ort.waiting import as_completed

LINES = """\b
Each line has "text", and may have
  id or output  the audio's name, without or with a suffix; else it is the
                number of the line
  voice         a name or a voice file
  speakers      whose turns names stand for: {"Ann": "S1"}
  seed          0 if it is not there
  max_tokens, cfg_scale, temperature, top_p, cfg_filter_top_k
  retries, crossfade, pause, max_silence, speed
                as in speak (max_silence is --trim-silence there)
"""

_INTERRUPTED = 130


def batch(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help='A JSON object to the line, such as {"text": "[S1] Hello.", "id": "hello"}; - '
            "reads stdin.",
        ),
    ],
    *,
    out_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the audio goes; made if it is not there.")
    ],
    audio_format: Annotated[
        AudioFormat,
        typer.Option("--format", help="Of lines whose 'output' does not tell it."),
    ] = AudioFormat.WAV,
    voice: Annotated[
        str | None,
        typer.Option(metavar="NAME_OR_FILE", help="The voice of lines that name none."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME_OR_DIR", help="As in `dia-ort speak`."),
    ] = None,
    provider: Provider = "auto",
    provider_option: ProviderOptions = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Speak many scripts, each to a file of its own.

    Stopped at any point, it goes on where it was when it is started again: a line that is there
    already is left out, unless it, its voice or the model has changed. A line that fails fails
    alone; the exit code is 1 then.
    """
    terminal = Terminal(quiet=quiet)
    options = parse_provider_options(provider_option or ())
    entries = list(read_lines(read_bytes(file), audio_format))
    _make_folder(out_dir)
    check_apart({"FILE": file}, {"--out-dir": out_dir / RECORD})
    tally = _Tally(len(entries), terminal)
    with terminal.progress():
        dia = Dia.load(model, provider=provider, provider_options=options, threads=threads)
        try:
            _run(dia, out_dir, voice, entries, tally)
        except KeyboardInterrupt:
            terminal.note(f"{out_dir}: stopped; {tally}. Start it again to go on")
            raise typer.Exit(_INTERRUPTED) from None
    terminal.note(f"{out_dir}: {tally}")
    raise typer.Exit(1 if tally.failed else 0)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiaError(
            f"cannot make the folder {folder} ({error.strerror}): give another one with --out-dir."
        ) from error
    check_place(folder / RECORD, "--out-dir")


class _Tally:
    """Counts what is done, and says what is not as soon as that is known."""

    def __init__(self, lines: int, terminal: Terminal) -> None:
        self.failed = 0
        self._lines = lines
        self._terminal = terminal
        self._done = self._skipped = 0
        self._seconds = 0.0
        self._start = time.perf_counter()

    def skip(self, line: Line, faults: Sequence[str]) -> None:
        self._skipped += 1
        self._tell(line, faults)

    def fail(self, number: int, reason: str) -> None:
        self.failed += 1
        self._terminal.warn(f"line {number} failed: {reason}")
        self._show()

    def finish(self, line: Line, spoken: Spoken) -> None:
        self._done += 1
        self._seconds += spoken.seconds
        for warning in line.warnings:
            self._terminal.warn(f"line {line.number} ({line.output}): {warning}")
        self._tell(line, spoken.faults)

    def _tell(self, line: Line, faults: Sequence[str]) -> None:
        for fault in faults:
            self._terminal.warn(
                f"line {line.number} ({line.output}) may have come out badly: {fault}"
            )
        self._show()

    def _show(self) -> None:
        count = self._done + self._skipped + self.failed
        self._terminal.show("speaking", f"{count} of {self._lines}", count, self._lines)

    def __str__(self) -> str:
        took = time.perf_counter() - self._start
        return (
            f"{self._done} done ({self._seconds:.1f} s of speech in {took:.1f} s), "
            f"{self._skipped} skipped, {self.failed} failed"
        )


def _run(
    dia: Dia, folder: Path, voice: str | None, entries: Sequence[Line | Failure], tally: _Tally
) -> None:
    """Speak what is left to do, several lines at once."""
    with ThreadPoolExecutor(AT_ONCE) as threads, Engine(dia, max_batch=AT_ONCE) as engine:
        batch = Batch(engine, folder, voice)
        futures: dict[Future[Spoken], Line] = {}
        try:
            for line in _left(batch, entries, tally):
                futures[threads.submit(batch.speak, line)] = line
            for future in as_completed(futures):
                line = futures[future]
                try:
                    spoken = future.result()
                    batch.note(line, spoken)
                    tally.finish(line, spoken)
                except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
                    tally.fail(line.number, str(error) or repr(error))
        except KeyboardInterrupt:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
        batch.finish([entry for entry in entries if isinstance(entry, Line)])


def _left(batch: Batch, entries: Sequence[Line | Failure], tally: _Tally) -> Iterator[Line]:
    """The lines to be spoken."""
    for entry in entries:
        if isinstance(entry, Failure):
            tally.fail(entry.number, entry.reason)
            continue
        try:
            is_done = batch.is_done(entry)
        except DiaError as error:  # its voice
            tally.fail(entry.number, str(error))
            continue
        if is_done:
            tally.skip(entry, batch.faults(entry))
        else:
            yield entry
