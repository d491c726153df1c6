"""What ``dia-ort speak`` does with scripts that take more than one chunk."""

import dataclasses
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dia_ort.anchors import Room
from dia_ort.cli_output import Target, check_place
from dia_ort.cli_terminal import Terminal
from dia_ort.config import GenerationConfig
from dia_ort.dia import Dia
from dia_ort.engine import Engine
from dia_ort.errors import DiaError
from dia_ort.files import write_file
from dia_ort.narration import NarratedChunk, NarrationOptions, Narrator
from dia_ort.plan import PlanLimits, PlannedChunk
from dia_ort.script import Pause, Script
from dia_ort.subtitles import make_cues, to_srt, to_vtt
from dia_ort.voice import Voice

AT_ONCE = 4
"""Chunks that run side by side."""

NOTHING_SPOKEN = (
    "nothing was spoken: the model ended at once. Take another --seed or a longer script."
)

_NAME = re.compile(r"\**\s*([^*:()]*[^*:()\s])")


@dataclass(frozen=True, slots=True)
class Subtitles:
    """Files to write subtitles to, if any."""

    srt: Path | None
    vtt: Path | None

    @property
    def paths(self) -> dict[str, Path]:
        """Those that there are, by option."""
        return {option: path for option, path in (("--srt", self.srt), ("--vtt", self.vtt)) if path}

    def check(self) -> None:
        """Refuse what cannot be written, before minutes of work.

        Raises:
            DiaError: It cannot be written.
        """
        for option, path in self.paths.items():
            check_place(path, option)

    def write(self, chunks: list[NarratedChunk], names: dict[str, str]) -> None:
        """Write each of them, whole or not at all.

        Raises:
            DiaError: It cannot be written any more.
        """
        cues = list(make_cues(chunks))
        for option, path in self.paths.items():
            text = to_srt(cues, names) if option == "--srt" else to_vtt(cues, names)
            try:
                write_file(path, text.encode())
            except OSError as error:
                raise DiaError(
                    f"cannot write {path} ({error.strerror}): the speech is there, and the same "
                    f"seed makes it again, for another {option}."
                ) from error


@dataclass(frozen=True, slots=True)
class Reading:
    """How a script is to be narrated.

    Attributes:
        script: As it was parsed.
        options: How it is spoken, in several chunks.
        subtitles: What is written besides.
        has_retries: Whether the options' retries were asked for, so that a short text has them too.
    """

    script: Script
    options: NarrationOptions
    subtitles: Subtitles
    has_retries: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether a short text can be spoken without a narrator."""
        is_default = self.options == NarrationOptions() and not self.has_retries
        return is_default and not self.subtitles.paths

    @property
    def short_options(self) -> NarrationOptions:
        """How it is spoken if it is short."""
        retries = self.options.retries if self.has_retries else 0
        return dataclasses.replace(self.options, retries=retries)


def find_reading(script: Script, subtitles: Subtitles, **wanted: float | None) -> Reading:
    """How to narrate a script.

    Args:
        script: As it was parsed.
        subtitles: Checked here.
        wanted: Fields of :class:`NarrationOptions`; None: the default.

    Raises:
        InvalidConfigError: An option is out of its range.
        DiaError: A file of subtitles cannot be written.
    """
    subtitles.check()
    given: Any = {name: value for name, value in wanted.items() if value is not None}
    return Reading(script, NarrationOptions(**given), subtitles, "retries" in given)


def find_short(script: Script, room: Room, voice: Voice | None) -> PlannedChunk | None:
    """The one chunk of a short text: one with tags or no speakers at all, and no pauses.

    Returns:
        The chunk; None: it is no short text, or does not fit one chunk beside the voice.

    Raises:
        InvalidConfigError: The voice, or ``max_tokens``, leaves no room for speech.
    """
    first, *more = room.plan(script, PlanLimits(), voice).chunks
    has_pauses = any(isinstance(item, Pause) for item in script.items)
    has_names = any(change.kind == "speaker name" for change in script.changes)
    return None if more or has_pauses or has_names else first


def narrate_to(
    target: Target,
    dia: Dia,
    script: str | Script,
    config: GenerationConfig,
    voice: Voice | None,
    options: NarrationOptions,
    reading: Reading,
    terminal: Terminal,
) -> bool:
    """Speak chunk by chunk, save, and say what was done; returns whether Ctrl-C stopped it.

    Args:
        target: Where the speech goes.
        dia: Speaks.
        script: What it says; a text stays as it stands if it fits one chunk.
        config: Of each chunk.
        voice: To go on in.
        options: How it is spoken.
        reading: The script as it was parsed, and its subtitles.
        terminal: Hears what was done.

    Raises:
        DiaError: As :func:`dia_ort.cli_speak.speak`.
        KeyboardInterrupt: Ctrl-C came twice, or before there was anything to keep.
    """
    names = _names(reading.script)
    if names:
        terminal.note("note: " + ", ".join(f"{name} speaks as {s}" for s, name in names.items()))
    start = time.perf_counter()
    with Engine(dia, max_batch=AT_ONCE) as engine:
        narrator = Narrator(engine, script, config, voice, options)
        write = _stream if target.stream else _save
        place, seconds, chunks = write(target, narrator, terminal)
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
    reading.subtitles.write(chunks, names)
    return not is_whole


def _save(
    target: Target, narrator: Narrator, terminal: Terminal
) -> tuple[str, float, list[NarratedChunk]]:
    """Speak, and then write it; returns where, how long it is, and its chunks."""
    chunks = list(_follow(narrator, terminal))
    samples = np.concatenate([chunk.samples for chunk in chunks])
    if not len(samples):
        raise DiaError(NOTHING_SPOKEN)
    place = target.save(samples, narrator.sample_rate)
    return place, len(samples) / narrator.sample_rate, chunks


def _stream(
    target: Target, narrator: Narrator, terminal: Terminal
) -> tuple[str, float, list[NarratedChunk]]:
    """Write every chunk when it is there, and keep its samples no longer.

    Nothing is opened before there is something to write.
    """
    chunks: list[NarratedChunk] = []

    def follow() -> Iterator[NDArray[np.float32]]:
        for chunk in _follow(narrator, terminal):
            chunks.append(dataclasses.replace(chunk, samples=chunk.samples[:0].copy()))
            yield chunk.samples

    following = follow()
    first = next(filter(len, following), None)
    if first is None:
        raise DiaError(NOTHING_SPOKEN)
    with target.open(narrator.sample_rate) as (place, wav):
        wav.write(first)
        count = len(first)
        for samples in following:
            wav.write(samples)
            count += len(samples)
    return place, count / narrator.sample_rate, chunks


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
