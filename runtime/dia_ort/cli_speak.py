"""What ``dia-ort speak`` does: a script becomes an audio file, and nothing is lost on the way."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dia_ort.artifacts import DEMO
from dia_ort.audio import FinishReason
from dia_ort.cli_input import Recording
from dia_ort.cli_models import broken_models
from dia_ort.cli_output import Target
from dia_ort.cli_terminal import CtrlC, Terminal
from dia_ort.config import GenerationConfig
from dia_ort.dia import Dia, Generation
from dia_ort.errors import DiaError, InvalidAudioError
from dia_ort.text import has_speaker_tag
from dia_ort.voice import Voice

INTERRUPTED = 130

_DEMO_NOTE = (
    "note: this is the built-in demo, a tiny model that knows some 30 words (hello, yes, no, one "
    "to ten, ...). For the real one: pip install 'dia-ort[export]', then dia-export --dtype int4"
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
    config: GenerationConfig
    recording: Recording | None
    target: Target
    model: str | None
    provider: str
    threads: int | None


@dataclass(frozen=True, slots=True, eq=False)
class _Speech:
    """What came of a job: mono samples, how they ended (None: Ctrl-C), and the seconds it took."""

    samples: NDArray[np.float32]
    ending: FinishReason | None
    took: float


def speak(job: Job, terminal: Terminal) -> int:
    """Speak, save, and say what was done; returns the exit code.

    Raises:
        DiaError: The model does not load, an input is not what it takes, nothing was spoken, or
            the output cannot be written.
        BrokenPipeError: Nobody reads stdout any more.
    """
    for message in broken_models() if job.model is None else ():
        terminal.warn(message)
    with terminal.progress():
        dia = Dia.load(job.model, provider=job.provider, threads=job.threads)
        if dia.artifact.folder == Path(__file__).parent / DEMO:
            terminal.note(_DEMO_NOTE)
        script = _with_tag(job.script, "script", terminal)
        generation = dia.start(script, job.config, _make_voice(dia, job.recording, terminal))
        with CtrlC() as ctrl_c:
            try:
                speech = _generate(dia, generation, job.config, terminal, ctrl_c)
                place = job.target.save(speech.samples, dia.sample_rate)
            except KeyboardInterrupt:
                terminal.note("stopped: nothing was saved")
                return INTERRUPTED
    _report(place, speech, generation.seed, dia, terminal)
    return INTERRUPTED if ctrl_c.pressed else 0


def _with_tag(text: str, name: str, terminal: Terminal) -> str:
    """A text that says who speaks: Dia was trained on such alone."""
    if not text or has_speaker_tag(text):
        return text
    terminal.note(f"note: the {name} has no [S1] or [S2]: [S1] is put before it")
    return f"[S1] {text}"


def _make_voice(dia: Dia, recording: Recording | None, terminal: Terminal) -> Voice | None:
    if recording is None:
        return None
    if not recording.transcript:
        terminal.warn(
            "there is no --voice-transcript (what the recording says): the voice is seldom kept "
            "without it."
        )
    model, codec = dia.manifest.model, dia.manifest.codec
    longest = model.max_prompt * codec.hop_length / codec.sample_rate
    if recording.duration > longest:
        raise InvalidAudioError(
            f"the recording lasts {recording.duration:.1f} s, and this model has {longest:.1f} s "
            "for it and the new speech: cut it to 5 to 10 s of clear speech."
        )
    terminal.show("listening")
    codes = dia.encode_audio(recording.samples, recording.sample_rate)
    return Voice(codes, _with_tag(recording.transcript, "transcript", terminal))


def _generate(
    dia: Dia, generation: Generation, config: GenerationConfig, terminal: Terminal, ctrl_c: CtrlC
) -> _Speech:
    """Run to the end or to Ctrl-C, and decode what there is."""
    model, codec = dia.manifest.model, dia.manifest.codec
    most = (config.max_tokens or model.max_steps) - model.max_delay - 1
    stopped = False
    start = time.perf_counter()
    for frame, _ in enumerate(generation, 1):
        seconds = frame * codec.hop_length / codec.sample_rate
        speed = seconds / (time.perf_counter() - start)
        terminal.show("speaking", f"{seconds:.1f} s, {speed:.2f}x real time", frame, most)
        if ctrl_c.pressed:
            stopped = True
            terminal.note("stopping: what is spoken so far is kept; Ctrl-C again drops it")
            break
    codes = generation.codes
    if not len(codes):
        raise DiaError(
            "nothing was spoken: the model ended at once. Take another --seed or a longer script."
        )
    terminal.show("decoding", done=most, most=most)
    if stopped:
        return _Speech(dia.decode_codes(codes), None, time.perf_counter() - start)
    audio = generation.audio()
    return _Speech(audio.samples, audio.finish_reason, time.perf_counter() - start)


def _report(place: str, speech: _Speech, seed: int, dia: Dia, terminal: Terminal) -> None:
    seconds = len(speech.samples) / dia.sample_rate
    name, dtype, provider = dia.artifact.name, dia.manifest.dtype, dia.provider.name
    terminal.note(
        f"{place}: {seconds:.2f} s of speech in {speech.took:.2f} s "
        f"({seconds / speech.took:.2f}x real time), {_ENDINGS[speech.ending]}"
    )
    terminal.note(f"seed {seed}, model {name} ({dtype}) on {provider}")
    if speech.ending == "length":
        terminal.note(
            "note: it came to its most decoder steps before the model ended it, so words may be "
            "missing: raise --max-tokens if it was given, or split the script"
        )
