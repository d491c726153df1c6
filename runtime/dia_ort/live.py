"""Scripts of any length, heard while they are spoken; for asyncio.

Like :class:`dia_ort.Narrator`, but a chunk's audio comes as it is generated, and not when the chunk
has turned out well: what was heard cannot be tried again, and silences stay as they are.
"""

import dataclasses
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from dia_ort.anchors import Room, speakers_of
from dia_ort.audio import FinishReason
from dia_ort.checks import check_whole
from dia_ort.config import GenerationConfig, check_config
from dia_ort.ends import find_fault
from dia_ort.engine import Engine, GenerationHandle
from dia_ort.errors import GenerationCancelledError
from dia_ort.joins import Joiner, split
from dia_ort.narration import NarrationOptions, check_engine, derive_seed
from dia_ort.plan import Plan, PlannedChunk
from dia_ort.script import Script
from dia_ort.speed import SpeedChanger, check_speed
from dia_ort.text import encode_text
from dia_ort.voice import Voice, check_voice

_DEFAULTS = NarrationOptions()
_ANY_SIZE = 1 << 30

Samples = NDArray[np.float32]


class LiveNarrator:
    """Speaks scripts, one after the other, in the same voices.

    What comes is the same, bit for bit, for the same scripts, settings and seed, whatever else the
    engine runs.

    Args:
        engine: May be shared, with room in its queue for ``width`` requests.
        config: For each chunk; the first has its seed, see
            :func:`dia_ort.narration.derive_seed`. ``max_tokens`` counts the voice's steps too.
        voice: To go on in; None: the first good chunk becomes it.
        speed: Of speech, 0.25 to 4, at the same pitch.
        width: How many chunks of a script are generated at once.
        goes_on: Whether there may be more than one script.

    Attributes:
        seed: That makes the same speech again.
        sample_rate: In hertz.

    Raises:
        InvalidConfigError: ``max_tokens``, the speed or the width is out of range; or what was
            given is no engine or config.
        InvalidAudioError: The voice is no :class:`dia_ort.Voice`.
    """

    def __init__(
        self,
        engine: Engine,
        config: GenerationConfig | None = None,
        voice: Voice | None = None,
        *,
        speed: float = 1.0,
        width: int = 2,
        goes_on: bool = False,
    ) -> None:
        check_engine(engine)
        check_speed(speed)
        check_whole("width", width, 1, _ANY_SIZE)
        config = check_config(config)
        check_voice(voice)
        if config.seed is None:
            config = dataclasses.replace(config, seed=secrets.randbits(63))
        self._anchored = _Anchored(engine, config, voice)
        self._speed = speed
        self._width = width
        self._goes_on = goes_on
        self.seed: int = self._anchored.seed
        self.sample_rate: int = engine.dia.sample_rate

    def plan(self, script: str | Script) -> Plan:
        """Cut the next script into chunks; for any thread, as long ones take a while.

        Raises:
            InvalidTextError: The script cannot be read.
            InvalidConfigError: The voice leaves no room for speech.
        """
        room, voice = self._anchored.room, self._anchored.voice
        return room.plan(script, _DEFAULTS.limits, voice, goes_on=self._goes_on)

    def speak(self, plan: Plan) -> "LiveSpeech":
        """Begin to speak what was planned last, when the script before it has ended.

        Raises:
            InvalidTextError, InvalidConfigError, InvalidAudioError, QueueFullError,
            EngineClosedError, EngineDiedError: As in :meth:`dia_ort.Engine.submit`.
        """
        is_alone = len(plan.chunks) == 1 and not self._goes_on
        joiner = Joiner(self.sample_rate, 0 if is_alone else _DEFAULTS.crossfade)
        return LiveSpeech(self._anchored, plan, joiner, self._speed, self._width)


class _Anchored:
    """Submits chunks, each in the voices of those before it."""

    def __init__(self, engine: Engine, config: GenerationConfig, voice: Voice | None) -> None:
        self.engine = engine
        self.voice = voice
        self.room: Room = Room(engine.dia.manifest, config)
        self.seed: int = config.seed or 0
        self._config = config
        self._count = 0

    def submit(self, planned: PlannedChunk) -> GenerationHandle:
        seed = derive_seed(self.seed, self._count, 0)
        config = dataclasses.replace(self._config, seed=seed)
        handle = self.engine.submit(planned.text, config, self.voice)
        self._count += 1
        return handle

    def lacks(self, planned: PlannedChunk) -> bool:
        """Whether somebody speaks who is not in the voice yet."""
        return not set(planned.speakers) <= speakers_of(self.voice)

    def add(self, planned: PlannedChunk, codes: NDArray[np.int64], plan: Plan) -> None:
        self.voice = self.room.add(self.voice, planned, codes, plan)


class LiveSpeech:
    """A script that is being spoken; made by :meth:`LiveNarrator.speak`.

    Attributes:
        plan: Its chunks.
        begun: Done when the first chunk has a slot, or has ended without one.
        chunk: The index of the one that is heard.
        faults: What is wrong with those that were heard, as :func:`dia_ort.ends.find_fault` tells.
        finish_reason: ``"length"`` if a chunk that was heard ran out of steps.
    """

    def __init__(
        self, anchored: _Anchored, plan: Plan, joiner: Joiner, speed: float, width: int
    ) -> None:
        codec = anchored.engine.dia.manifest.codec
        self.plan = plan
        self.chunk: int = 0
        self.faults: list[str] = []
        self.finish_reason: FinishReason = "eos"
        self._anchored = anchored
        self._joiner = joiner
        self._speed = speed
        self._width = width
        self._rate = codec.sample_rate
        self._frame_rate = codec.sample_rate / codec.hop_length
        self._waiting = deque(plan.chunks)
        self._running: deque[tuple[PlannedChunk, GenerationHandle]] = deque()
        self._heard_frames = 0  # of chunks that are done with
        self._cancelled = False
        try:
            self._fill()
        except Exception:
            self.cancel()  # a first chunk that runs already
            raise
        self.begun: Future[None] = self._running[0][1].begun

    @property
    def num_tokens(self) -> int:
        """The text tokens of all chunks; a voice's transcript is not counted."""
        return sum(encode_text(chunk.text, _ANY_SIZE).size for chunk in self.plan.chunks)

    @property
    def num_frames(self) -> int:
        """How many frames are complete, heard or not."""
        return self._heard_frames + sum(handle.num_frames for _, handle in self._running)

    @property
    def seconds(self) -> float:
        """How much speech they are, at speed 1 and without pauses."""
        return self.num_frames / self._frame_rate

    def cancel(self) -> None:
        """Stop: the samples end with a :class:`GenerationCancelledError`."""
        self._cancelled = True
        for _, handle in self._running:
            handle.cancel()

    async def samples(self) -> AsyncGenerator[Samples, None]:
        """The samples, mono, (samples,), piece by piece, silence by the second; to be taken once.

        Whoever closes it early, or is cancelled, cancels the speech.

        Raises:
            GenerationCancelledError, EngineClosedError, EngineDiedError, NumericalError: As in
                :meth:`dia_ort.GenerationHandle.result`.
            InvalidTextError, InvalidConfigError, QueueFullError: As in
                :meth:`dia_ort.Engine.submit`.
        """
        try:
            while self._running:
                async for samples in self._hear(*self._running[0]):
                    if len(samples):
                        yield samples
                _, handle = self._running.popleft()
                self._heard_frames += handle.num_frames
                self._fill()
            if len(samples := self._joiner.end()):
                yield samples
        finally:
            self.cancel()

    def _fill(self) -> None:
        """Submit chunks until enough run, or the last of them is to be in the next one's voice."""
        if self._cancelled:
            raise GenerationCancelledError("this speech was cancelled.")
        while self._waiting and len(self._running) < self._width:
            if self._running and self._anchored.lacks(self._running[-1][0]):
                return
            planned = self._waiting.popleft()
            self._running.append((planned, self._anchored.submit(planned)))

    async def _hear(
        self, planned: PlannedChunk, handle: GenerationHandle
    ) -> AsyncGenerator[Samples, None]:
        """A chunk's samples, joined to those before it."""
        self.chunk = planned.index
        speed = SpeedChanger(self._rate, self._speed)
        pieces: list[Samples] = []
        async for piece in handle.audio():
            pieces.append(piece.samples)
            yield self._joiner.push(await self._change(speed.push, piece.samples))
        yield self._joiner.push(await self._change(speed.finish))
        for part in split(self._joiner.close(planned.pause_after), self._rate):
            yield part
        self._judge(planned, handle, np.concatenate(pieces))

    async def _change(self, change: Callable[..., Samples], *samples: Samples) -> Samples:
        """Change the speed beside the event loop, if there is something to change."""
        if self._speed == 1:
            return change(*samples)
        import asyncio  # noqa: PLC0415 - slow to load, and there already where it is needed

        return await asyncio.to_thread(change, *samples)

    def _judge(self, planned: PlannedChunk, handle: GenerationHandle, samples: Samples) -> None:
        """Keep a good chunk's voices for the next ones."""
        reason = handle.finish_reason or "length"
        if reason == "length":
            self.finish_reason = reason
        fault = find_fault(samples, self._rate, reason, planned.seconds)
        if fault:
            self.faults.append(f"chunk {planned.index + 1}: {fault}")
        elif self._anchored.lacks(planned):
            self._anchored.add(planned, handle.codes, self.plan)
