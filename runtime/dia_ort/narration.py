"""Scripts of any length: planned, spoken chunk by chunk in the same voices, and joined.

Chunks run side by side in an :class:`dia_ort.Engine`. What keeps the voices is codes: each chunk
goes on from those of the given voice, or of the first good chunks; see :mod:`dia_ort.anchors`.

Each chunk and each of its attempts has a seed of its own, so a narration is the same, bit for bit,
whatever runs beside it.
"""

import dataclasses
import math
import secrets
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dia_ort.anchors import Room, speakers_of
from dia_ort.audio import Audio, FilePath, FinishReason, write_audio
from dia_ort.checks import check_number, check_whole
from dia_ort.config import GenerationConfig, check_config
from dia_ort.ends import find_fault, longest, shorten_silences
from dia_ort.engine import Engine, GenerationHandle
from dia_ort.errors import InvalidConfigError
from dia_ort.joins import Joiner
from dia_ort.plan import Plan, PlanLimits, PlannedChunk
from dia_ort.script import Script
from dia_ort.speed import change_speed, check_speed
from dia_ort.voice import Voice, check_voice
from dia_ort.waiting import wait_for

_MOST = 10  # of seconds between chunks, and of further attempts
_BLINK = 1e-3  # seconds that are nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class NarrationOptions:
    """How a script is cut, spoken and joined.

    Attributes:
        limits: How long the chunks may be. The model and the voice lower them further, so that
            voice and chunk fit together.
        retries: How often a chunk is tried again that ran to its most steps, or is far longer or
            shorter than its text warrants; 0 to 10. All tries but the last are stopped when they
            are far too long.
        crossfade: Seconds by which chunks overlap where no pause stands between; 0 to 1.
        pause: Seconds of silence between chunks where the script sets no pause, instead of the
            crossfade; 0 to 10.
        max_silence: Silences longer than so many seconds are cut down to it, at both ends of each
            chunk and within; None leaves them.
        speed: Of speech, 0.25 to 4, at the same pitch. Pauses keep their lengths.

    Raises:
        InvalidConfigError: A field has the wrong type or is out of its range, or PyAV is missing
            for the speed.
    """

    limits: PlanLimits = field(default_factory=PlanLimits)
    retries: int = 2
    crossfade: float = 0.03
    pause: float = 0.0
    max_silence: float | None = None
    speed: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.limits, PlanLimits):
            raise InvalidConfigError(f"limits is {self.limits!r}: give PlanLimits")
        check_whole("retries", self.retries, 0, _MOST)
        check_number("crossfade", self.crossfade, 0, 1)
        check_number("pause", self.pause, 0, _MOST)
        if self.max_silence is not None:
            check_number("max_silence", self.max_silence, 0, _MOST)
        check_speed(self.speed)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a chunk.

    Attributes:
        seed: That it was generated with.
        seconds: How long it came out, before silences were cut and the speed changed.
        finish_reason: How it ended.
        fault: What is wrong with it; None: nothing.
    """

    seed: int
    seconds: float
    finish_reason: FinishReason
    fault: str | None


@dataclass(frozen=True, slots=True, eq=False)
class NarratedChunk:
    """A chunk that was spoken.

    Attributes:
        index: From 0.
        text: What the model was given.
        speakers: Who speaks, in order of appearance.
        start: When it begins in the whole, in seconds.
        end: When it ends, without the pause after it.
        samples: The next samples of the whole, (samples,): those of all chunks, one after the
            other, are the narration. A crossfade comes with the later chunk, a pause with the
            earlier.
        attempts: All of them, in order. One without fault is the last, and taken.
        taken: The index of the one that is heard. If all have faults, it is one that ended by
            itself and is too long, else the one whose length is the nearest to what was expected.
    """

    index: int
    text: str
    speakers: tuple[str, ...]
    start: float
    end: float
    samples: NDArray[np.float32] = field(repr=False)
    attempts: tuple[Attempt, ...]
    taken: int

    @property
    def seed(self) -> int:
        """Of the attempt that is heard."""
        return self.attempts[self.taken].seed

    @property
    def finish_reason(self) -> FinishReason:
        """Of the attempt that is heard."""
        return self.attempts[self.taken].finish_reason

    @property
    def fault(self) -> str | None:
        """What is wrong with the attempt that is heard; None: nothing."""
        return self.attempts[self.taken].fault


@dataclass(frozen=True)
class Narration:
    """A whole script, spoken.

    Attributes:
        chunks: In order.
        sample_rate: In hertz.
        seed: That the same settings make the same narration with.
        voice: That it ended in, for what follows to go on in: the one that was given, or the first
            good chunk's, with all who were added to it. None: no chunk was good, or all were too
            long to be one.
    """

    chunks: tuple[NarratedChunk, ...]
    sample_rate: int
    seed: int
    voice: Voice | None = None

    @cached_property
    def samples(self) -> NDArray[np.float32]:
        """Mono, (samples,)."""
        return np.concatenate([chunk.samples for chunk in self.chunks])

    @property
    def duration(self) -> float:
        """The length in seconds."""
        return sum(len(chunk.samples) for chunk in self.chunks) / self.sample_rate

    def save(self, file: FilePath, format: str | None = None) -> None:  # noqa: A002
        """Write the samples to a file; see :func:`dia_ort.audio.write_audio`."""
        write_audio(file, self.samples, self.sample_rate, format)


def check_engine(engine: Engine) -> None:
    """Refuse what is no engine, a :class:`dia_ort.Dia` above all.

    Raises:
        InvalidConfigError: It is none.
    """
    if not isinstance(engine, Engine):
        raise InvalidConfigError(
            f"engine is {type(engine).__name__}: give an Engine, as `with Engine(dia) as engine` "
            "opens it"
        )


def derive_seed(seed: int, chunk: int, attempt: int) -> int:
    """The seed of a chunk's attempt, both from 0: the seed itself for the very first.

    Else the first 64 bits of ``numpy.random.SeedSequence(seed, spawn_key=(chunk, attempt))``.
    """
    if chunk == attempt == 0:
        return seed
    sequence = np.random.SeedSequence(seed, spawn_key=(chunk, attempt))
    return int(sequence.generate_state(1, np.uint64)[0])


def narrate(
    engine: Engine,
    script: str | Script,
    config: GenerationConfig | None = None,
    voice: Voice | None = None,
    options: NarrationOptions | None = None,
) -> Narration:
    """Speak a script of any length; parameters and errors as in :class:`Narrator`.

    A text that has tags, no pauses, and fits one chunk, is spoken as it stands. Its first attempt
    has the codes that :meth:`dia_ort.Dia.generate` gives for the same seed.
    """
    narrator = Narrator(engine, script, config, voice, options)
    chunks = tuple(narrator)
    return Narration(chunks, narrator.sample_rate, narrator.seed, narrator.voice)


class Narrator:
    """Speaks a script of any length: iterate over it to get its chunks in order, as they end.

    It runs at most ``engine.max_batch`` chunks ahead, so its memory does not grow with the script.
    Leaving the loop cancels what runs. Each loop begins anew.

    Args:
        engine: May be shared, with room in its queue for ``max_batch`` requests.
        script: A text in any form that :func:`dia_ort.script.parse_script` reads, or its result.
        config: For each chunk. ``max_tokens`` counts the voice's steps too.
        voice: To go on in; None: the first good chunk becomes it.
        options: How it is cut, spoken and joined.

    Attributes:
        plan: The chunks to be spoken. Its limits are the options', lowered for model and voice.
        sample_rate: In hertz.
        seed: Of the narration; see :func:`derive_seed`.
        voice: That it goes on in now, and at the end of a loop :attr:`Narration.voice`.

    Raises:
        InvalidTextError: The script cannot be read.
        InvalidConfigError: The voice, or ``max_tokens``, leaves no room for speech; or what was
            given is no engine, config or options.
        InvalidAudioError: The voice is no :class:`dia_ort.Voice`.
        InvalidTextError, InvalidConfigError, InvalidAudioError, NumericalError, QueueFullError:
            As in :meth:`dia_ort.Engine.submit`; from the loop.
    """

    def __init__(
        self,
        engine: Engine,
        script: str | Script,
        config: GenerationConfig | None = None,
        voice: Voice | None = None,
        options: NarrationOptions | None = None,
    ) -> None:
        check_engine(engine)
        config = check_config(config)
        check_voice(voice)
        if not isinstance(options, NarrationOptions | None):
            raise InvalidConfigError(
                f"options is {type(options).__name__}: give NarrationOptions, such as "
                "NarrationOptions(retries=1)"
            )
        self._engine = engine
        self._config = config
        self._voice = self.voice = voice
        self._options = options or NarrationOptions()
        self._room = Room(engine.dia.manifest, config)
        self.sample_rate: int = engine.dia.sample_rate
        self.seed: int = secrets.randbits(63) if config.seed is None else config.seed
        self.plan: Plan = self._room.plan(script, self._options.limits, voice)

    def __iter__(self) -> Iterator[NarratedChunk]:
        width = self._engine.max_batch
        takes = _Takes(self._engine)
        threads = ThreadPoolExecutor(width, "dia-ort-narration")
        joiner = Joiner(self.sample_rate, self._options.crossfade)
        running: deque[Future[_Spoken]] = deque()
        voice, chunks = self._voice, self.plan.chunks
        self.voice = voice
        try:
            for planned in chunks:
                running.append(threads.submit(self._speak, takes, planned, voice))
                adds = not set(planned.speakers) <= speakers_of(voice)
                is_last = planned is chunks[-1]
                while len(running) >= (1 if adds or is_last else width):
                    spoken = wait_for(running.popleft())
                    yield self._join(joiner, spoken)
                if adds and not spoken.attempts[spoken.taken].fault:
                    voice = self._room.add(voice, planned, spoken.codes, self.plan)
                    self.voice = voice
        finally:
            takes.cancel()
            threads.shutdown(cancel_futures=True)

    def _speak(self, takes: "_Takes", planned: PlannedChunk, voice: Voice | None) -> "_Spoken":
        """Try a chunk until it is good, or tried often enough."""
        attempts: list[Attempt] = []
        _, taken, audio = min(self._attempts(takes, planned, voice, attempts))
        samples = audio.samples
        if self._options.max_silence is not None:
            samples = shorten_silences(samples, self.sample_rate, self._options.max_silence)
        samples = change_speed(samples, self.sample_rate, self._options.speed)
        return _Spoken(planned, tuple(attempts), taken, samples, audio.codes)

    def _attempts(
        self, takes: "_Takes", planned: PlannedChunk, voice: Voice | None, attempts: list[Attempt]
    ) -> Iterator[tuple[tuple[int, float], int, Audio]]:
        """Attempts with their numbers, and how bad they are before that; noted in the list too.

        All but the last are stopped when they are far too long: the last may end by itself.
        """
        for number in range(self._options.retries + 1):
            seed = derive_seed(self.seed, planned.index, number)
            is_last = number == self._options.retries
            steps = None if is_last else self._room.steps(voice, longest(planned.seconds))
            config = dataclasses.replace(
                self._config, seed=seed, max_tokens=steps or self._config.max_tokens
            )
            audio = takes.take(planned.text, config, voice)
            fault = find_fault(
                audio.samples, self.sample_rate, audio.finish_reason, planned.seconds
            )
            attempts.append(Attempt(seed, audio.duration, audio.finish_reason, fault))
            ratio = max(audio.duration, _BLINK) / max(planned.seconds, _BLINK)
            says_all = audio.finish_reason == "eos" and ratio > 1
            rank = 0 if fault is None else 1 if says_all else 2
            yield (rank, abs(math.log(ratio))), number, audio
            if fault is None:
                return

    def _join(self, joiner: Joiner, spoken: "_Spoken") -> NarratedChunk:
        planned, last = spoken.planned, self.plan.chunks[-1]
        between = 0.0 if planned is last else self._options.pause
        joined = joiner.add(spoken.samples, planned.pause_after or between)
        samples = joined.samples
        if planned is last:
            samples = np.concatenate([samples, joiner.end()])
        return NarratedChunk(
            index=planned.index,
            text=planned.text,
            speakers=planned.speakers,
            start=joined.start / self.sample_rate,
            end=(joined.start + len(spoken.samples)) / self.sample_rate,
            samples=samples,
            attempts=spoken.attempts,
            taken=spoken.taken,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Spoken:
    """A chunk before it is joined."""

    planned: PlannedChunk
    attempts: tuple[Attempt, ...]
    taken: int
    samples: NDArray[np.float32]
    codes: NDArray[np.integer]


class _Takes:
    """Speaks for several threads, until it is cancelled."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._handles: set[GenerationHandle] = set()
        self._cancelled = False

    def take(self, text: str, config: GenerationConfig, voice: Voice | None) -> Audio:
        """Speak a text, and wait for it."""
        handle = self._engine.submit(text, config, voice)
        with self._lock:
            self._handles.add(handle)
            if self._cancelled:
                handle.cancel()
        try:
            return handle.result()
        finally:
            with self._lock:
                self._handles.remove(handle)

    def cancel(self) -> None:
        """Cancel what runs, and what is to come."""
        with self._lock:
            self._cancelled = True
            for handle in self._handles:
                handle.cancel()
