"""What ``dia-ort speak`` does with scripts that take more than one chunk."""

import dataclasses
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dia_ort.cli_output import Target
from dia_ort.cli_terminal import Terminal
from dia_ort.config import GenerationConfig
from dia_ort.dia import Dia
from dia_ort.engine import Engine
from dia_ort.errors import DiaError, InvalidConfigError
from dia_ort.files import write_file
from dia_ort.narration import NarratedChunk, NarrationOptions, Narrator
from dia_ort.plan import plan
from dia_ort.script import Pause, Script
from dia_ort.subtitles import make_cues, to_srt, to_vtt
from dia_ort.voice import Voice

AT_ONCE = 4
"""Chunks that run side by side."""

_NAME = re.compile(r"\**\s*([^*:()]*[^*:()\s])")


@dataclass(frozen=True, slots=True)
class Subtitles:
    """Files to write subtitles to, if any."""

    srt: Path | None
    vtt: Path | None

    def check(self) -> None:
        """Refuse what cannot be written, before minutes of work.

        Raises:
            InvalidConfigError: There is no such folder.
        """
        for path in filter(None, (self.srt, self.vtt)):
            if not path.parent.is_dir():
                raise InvalidConfigError(
                    f"cannot write {path}: make the folder {path.parent} first"
                )

    def write(self, chunks: list[NarratedChunk], names: dict[str, str]) -> None:
        """Write them, whole or not at all."""
        cues = list(make_cues(chunks))
        if self.srt:
            write_file(self.srt, to_srt(cues, names).encode())
        if self.vtt:
            write_file(self.vtt, to_vtt(cues, names).encode())


@dataclass(frozen=True, slots=True)
class Reading:
    """How a script is to be narrated.

    Attributes:
        script: As it was parsed.
        options: How it is spoken.
        subtitles: What is written besides.
    """

    script: Script
    options: NarrationOptions
    subtitles: Subtitles


def find_reading(
    script: Script, subtitles: Subtitles, *, retries: int | None, **wanted: float | None
) -> Reading | None:
    """How to narrate a script; None if it is short, and no option needs it.

    Args:
        script: As it was parsed.
        subtitles: Checked here.
        retries: None: as ever for short scripts, which is none.
        wanted: Other fields of :class:`NarrationOptions`; None: the default.

    Raises:
        InvalidConfigError: An option is out of its range, or a file cannot be written.
    """
    subtitles.check()
    given = {name: value for name, value in wanted.items() if value is not None}
    short = is_short(script)
    if short and retries is None and not given and not (subtitles.srt or subtitles.vtt):
        return None
    if retries is None:
        retries = 0 if short else NarrationOptions().retries
    options: Any = {"retries": retries, **given}
    return Reading(script, NarrationOptions(**options), subtitles)


def is_short(script: Script) -> bool:
    """Whether it has tags or no speakers at all, no pauses, and fits one chunk."""
    has_pauses = any(isinstance(item, Pause) for item in script.items)
    has_names = any(change.kind == "speaker name" for change in script.changes)
    return not has_pauses and not has_names and len(plan(script).chunks) == 1


def narrate_to(
    target: Target,
    dia: Dia,
    script: str | Script,
    config: GenerationConfig,
    voice: Voice | None,
    reading: Reading,
    terminal: Terminal,
) -> bool:
    """Speak chunk by chunk, save, and say what was done; returns whether Ctrl-C stopped it.

    Raises:
        DiaError: As :func:`dia_ort.cli_speak.speak`.
        KeyboardInterrupt: Ctrl-C came twice, or before there was anything to keep.
    """
    names = _names(reading.script)
    if names:
        terminal.note("note: " + ", ".join(f"{name} speaks as {s}" for s, name in names.items()))
    start = time.perf_counter()
    with Engine(dia, max_batch=AT_ONCE) as engine:
        narrator = Narrator(engine, script, config, voice, reading.options)
        write = _stream if target.stream else _save
        place, seconds, chunks = write(target, narrator, terminal)
    reading.subtitles.write(chunks, names)
    took = time.perf_counter() - start
    is_whole = len(chunks) == len(narrator.plan.chunks)
    terminal.note(
        f"{place}: {seconds:.2f} s of speech in {took:.2f} s ({seconds / took:.2f}x real time), "
        f"{len(chunks)} of {len(narrator.plan.chunks)} chunks"
        f"{'' if is_whole else ', stopped by Ctrl-C'}"
    )
    name, dtype = dia.artifact.name, dia.manifest.dtype
    terminal.note(f"seed {narrator.seed}, model {name} ({dtype}) on {dia.provider.name}")
    for chunk in chunks:
        if chunk.fault:
            tries = f"the best of {len(chunk.attempts)} tries" if chunk.attempts[1:] else "one try"
            terminal.warn(
                f"chunk {chunk.index + 1}, at {chunk.start:.1f} s, may have come out badly "
                f"({tries}): {chunk.fault}"
            )
    return not is_whole


def _save(
    target: Target, narrator: Narrator, terminal: Terminal
) -> tuple[str, float, list[NarratedChunk]]:
    """Speak, and then write it; returns where, how long it is, and its chunks."""
    chunks = list(_follow(narrator, terminal))
    samples = np.concatenate([chunk.samples for chunk in chunks])
    if not len(samples):
        raise DiaError(
            "nothing was spoken: the model ended at once. Take another --seed or a longer script."
        )
    place = target.save(samples, narrator.sample_rate)
    return place, len(samples) / narrator.sample_rate, chunks


def _stream(
    target: Target, narrator: Narrator, terminal: Terminal
) -> tuple[str, float, list[NarratedChunk]]:
    """Write every chunk when it is there, and keep its samples no longer."""
    following = _follow(narrator, terminal)
    chunk: NarratedChunk | None = next(following)
    chunks, samples = [], 0
    with target.open(narrator.sample_rate) as (place, wav):
        while chunk:
            wav.write(chunk.samples)
            samples += len(chunk.samples)
            chunks.append(dataclasses.replace(chunk, samples=chunk.samples[:0].copy()))
            chunk = next(following, None)
    return place, samples / narrator.sample_rate, chunks


def _follow(narrator: Narrator, terminal: Terminal) -> Iterator[NarratedChunk]:
    """The chunks until they end or Ctrl-C comes; keeps the bar."""
    count, seconds, start = len(narrator.plan.chunks), 0.0, time.perf_counter()
    terminal.show("speaking", f"chunk 1 of {count}", 0, count)
    try:
        for number, chunk in enumerate(narrator, 1):
            yield chunk
            seconds += len(chunk.samples) / narrator.sample_rate
            speed = seconds / (time.perf_counter() - start)
            figures = f"chunk {min(number + 1, count)} of {count}, {seconds:.1f} s, "
            terminal.show("speaking", f"{figures}{speed:.2f}x real time", number, count)
    except KeyboardInterrupt:
        if not seconds:
            raise
        terminal.note(
            "stopping: the chunks so far are kept; Ctrl-C again drops what is not written"
        )


def _names(script: Script) -> dict[str, str]:
    """The names of the speakers, by speaker, where one has a single name."""
    names: dict[str, dict[str, str]] = {}
    for change in script.changes:
        if change.kind == "speaker name" and (name := _NAME.match(change.before)):
            names.setdefault(change.after[1:3], {})[name[1].casefold()] = name[1]
    return {
        speaker: next(iter(own.values())) for speaker, own in sorted(names.items()) if len(own) == 1
    }
