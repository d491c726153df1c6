"""What ``dia-ort speak`` does: a script becomes an audio file, and nothing is lost on the way."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dia_ort.anchors import Room
from dia_ort.audio import AudioChunk
from dia_ort.cli_input import Recording, with_tag
from dia_ort.cli_narrate import NOTHING_SPOKEN, Reading, find_short, narrate_to
from dia_ort.cli_output import Target
from dia_ort.cli_terminal import CtrlC, Terminal
from dia_ort.codec import ChunkWindows
from dia_ort.config import GenerationConfig
from dia_ort.demo_words import DEMO_WORDS, unknown_words
from dia_ort.dia import Dia
from dia_ort.ends import find_fault
from dia_ort.errors import DiaError
from dia_ort.plan import PlannedChunk
from dia_ort.script import Script, Turn
from dia_ort.streams import Generation
from dia_ort.voice import Voice

INTERRUPTED = 130

_DEMO_NOTE = (
    "note: this is the built-in demo, a tiny model of 32 words and two voices. For the real one: "
    "pip install 'dia-ort[export]', then dia-export --dtype int4"
)
_ENDINGS = {
    "eos": "ended by itself",
    "length": "cut off at the limit",
    None: "stopped by Ctrl-C",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that one ``dia-ort speak`` needs, read and checked."""

    script: str
    reading: Reading
    config: GenerationConfig
    voice: Voice | Recording | None
    target: Target
    model: str | None
    provider: str
    provider_options: dict[str, str]
    threads: int | None


@dataclass(frozen=True, slots=True)
class _Speech:
    """What came of a job.

    Attributes:
        place: Where it is.
        samples: Mono, (samples,).
        sample_rate: In hertz.
        took: How long it took to make.
        first: How long it took to make and write its first chunk, if it was streamed.
    """

    place: str
    samples: NDArray[np.float32]
    sample_rate: int
    took: float
    first: float | None = None

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.sample_rate


def speak(job: Job, terminal: Terminal) -> int:
    """Speak, save, and say what was done; returns the exit code.

    Raises:
        DiaError: The model does not load, an input is not what it takes, nothing was spoken, or
            the output cannot be written.
        BrokenPipeError: Nobody reads stdout any more.
    """
    with terminal.progress():
        dia = Dia.load(
            job.model,
            provider=job.provider,
            provider_options=job.provider_options,
            threads=job.threads,
        )
        if dia.artifact.is_demo:
            _tell_of_demo(job, terminal)
        for message in job.reading.script.warnings:
            terminal.warn(message)
        voice = _make_voice(dia, job.voice, terminal)
        short = find_short(job.reading.script, Room(dia.manifest, job.config), voice)
        if short is None or not job.reading.is_plain:
            return _narrate(job, dia, voice, is_short=short is not None, terminal=terminal)
        generation = dia.start(with_tag(job.script, "script", terminal), job.config, voice)
        with CtrlC() as ctrl_c:
            try:
                make = _stream if job.target.stream else _save
                speech = make(job, dia, generation, _run(job, dia, generation, terminal, ctrl_c))
            except KeyboardInterrupt:
                terminal.note(f"stopped: {_kept(job)}")
                return INTERRUPTED
    _report(speech, generation, dia, terminal)
    _judge(speech, generation, short, terminal)
    return INTERRUPTED if ctrl_c.pressed else 0


def _tell_of_demo(job: Job, terminal: Terminal) -> None:
    terminal.note(_DEMO_NOTE)
    turns = (item.text for item in job.reading.script.items if isinstance(item, Turn))
    if unknown := unknown_words(" ".join(turns)):
        terminal.warn(
            f"the demo does not know {', '.join(unknown)}, and will say something else: it knows "
            f"{', '.join(DEMO_WORDS)}"
        )


def _narrate(job: Job, dia: Dia, voice: Voice | None, *, is_short: bool, terminal: Terminal) -> int:
    """Speak chunk by chunk; Ctrl-C keeps those that are done."""
    reading = job.reading
    script: str | Script = reading.script
    options = reading.options
    if is_short:
        script, options = with_tag(job.script, "script", terminal), reading.short_options
    elif count := sum(c.count for c in reading.script.changes if c.kind != "speaker name"):
        terminal.note(f"note: {count} replacements in the text; `dia-ort plan` shows them")
    try:
        stopped = narrate_to(job.target, dia, script, job.config, voice, options, reading, terminal)
    except KeyboardInterrupt:
        terminal.note(f"stopped: {_kept(job)}")
        return INTERRUPTED
    return INTERRUPTED if stopped else 0


def _kept(job: Job) -> str:
    return "no more is written" if job.target.stream else "nothing was saved"


def _make_voice(dia: Dia, given: Voice | Recording | None, terminal: Terminal) -> Voice | None:
    if not isinstance(given, Recording):
        return given
    terminal.show("listening")
    transcript = with_tag(given.transcript, "transcript", terminal)
    return Voice.from_audio(dia, given.samples, transcript, sample_rate=given.sample_rate)


def _run(
    job: Job, dia: Dia, generation: Generation, terminal: Terminal, ctrl_c: CtrlC
) -> Iterator[int]:
    """Speak to the end or to Ctrl-C; yields how many frames there are, after each one."""
    model, codec = dia.manifest.model, dia.manifest.codec
    most = (job.config.max_tokens or model.max_steps) - model.max_delay - 1
    start = time.perf_counter()
    for frames, _ in enumerate(generation, 1):
        seconds = frames * codec.hop_length / codec.sample_rate
        speed = seconds / (time.perf_counter() - start)
        terminal.show("speaking", f"{seconds:.1f} s, {speed:.2f}x real time", frames, most)
        yield frames
        if ctrl_c.pressed:
            terminal.note(
                "stopping: what is spoken so far is kept; Ctrl-C again drops what is not written"
            )
            break
    if not len(generation.codes):
        raise DiaError(NOTHING_SPOKEN)
    terminal.show("decoding", done=most, most=most)


def _save(job: Job, dia: Dia, generation: Generation, run: Iterator[int]) -> _Speech:
    """Speak, and then write it."""
    start = time.perf_counter()
    for _ in run:
        pass
    samples = dia.decode_codes(generation.codes)
    took = time.perf_counter() - start
    place = job.target.save(samples, dia.sample_rate)
    return _Speech(place, samples, dia.sample_rate, took)


def _stream(job: Job, dia: Dia, generation: Generation, run: Iterator[int]) -> _Speech:
    """Write while speaking; nothing is opened before there is something to write."""
    start = time.perf_counter()
    chunks = _chunks(dia, generation, run)
    chunk = next(chunks)
    with job.target.open(dia.sample_rate) as (place, wav):
        wav.write(chunk.samples)
        first = time.perf_counter() - start
        pieces = [chunk.samples]
        for chunk in chunks:
            wav.write(chunk.samples)
            pieces.append(chunk.samples)
    took = time.perf_counter() - start
    return _Speech(place, np.concatenate(pieces), dia.sample_rate, took, first)


def _chunks(dia: Dia, generation: Generation, run: Iterator[int]) -> Iterator[AudioChunk]:
    """As :meth:`Generation.stream` has them; they go on to the last frame after Ctrl-C too."""
    windows = ChunkWindows(dia.manifest.codec)

    def ready(frames: int, *, ended: bool) -> Iterator[AudioChunk]:
        while window := windows.next(frames, ended=ended):
            codes = generation.codes[window.first : window.last]
            yield window.chunk(dia.decode_codes(codes, window.context))

    for frames in run:
        yield from ready(frames, ended=False)
    yield from ready(len(generation.codes), ended=True)


def _report(speech: _Speech, generation: Generation, dia: Dia, terminal: Terminal) -> None:
    name, dtype, provider = dia.artifact.name, dia.manifest.dtype, dia.provider.name
    speed = speech.seconds / speech.took
    first = "" if speech.first is None else f", the first of it after {speech.first:.2f} s"
    terminal.note(
        f"{speech.place}: {speech.seconds:.2f} s of speech in {speech.took:.2f} s "
        f"({speed:.2f}x real time){first}, {_ENDINGS[generation.finish_reason]}"
    )
    terminal.note(f"seed {generation.seed}, model {name} ({dtype}) on {provider}")


def _judge(
    speech: _Speech, generation: Generation, short: PlannedChunk, terminal: Terminal
) -> None:
    """Warn of speech that may have come out badly; what Ctrl-C stopped is as it was wanted."""
    reason, samples, rate = generation.finish_reason, speech.samples, speech.sample_rate
    if reason == "length":
        terminal.warn(
            "it came to its most decoder steps before the model ended it, so words may be missing: "
            "raise --max-tokens if it was given, or split the script"
        )
    elif reason and (fault := find_fault(samples, rate, reason, short.seconds)):
        terminal.warn(f"it may have come out badly, and another --seed may help: {fault}")
