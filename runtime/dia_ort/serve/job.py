"""One request for speech, from its place in the queue to its last byte."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, ParamSpec

import numpy as np

from dia_ort.errors import DiaError
from dia_ort.joins import split
from dia_ort.live import LiveNarrator, LiveSpeech
from dia_ort.serve.encoding import StreamEncoder
from dia_ort.serve.errors import ApiError
from dia_ort.serve.logs import text_field
from dia_ort.serve.service import Place, Service, log

P = ParamSpec("P")


class Job:
    """Speaks for somebody, and tells the metrics and the log of it.

    It is done when :meth:`close` was called, which has to be, whatever happens.

    Args:
        service: Runs it.
        narrator: Speaks.
        encoder: Of the audio.

    Attributes:
        seed: That makes the same speech again.
        outcome: What became of it; one of :data:`dia_ort.serve.metrics.OUTCOMES`.

    Raises:
        ApiError: The server is not ready, or has no place for it.
    """

    def __init__(self, service: Service, narrator: LiveNarrator, encoder: StreamEncoder) -> None:
        self.seed = narrator.seed
        self.outcome = "cancelled"
        self._service = service
        self._narrator = narrator
        self._encoder = encoder
        self._speeches: list[LiveSpeech] = []
        self._asked = time.monotonic()
        self._submitted = self._asked
        self._begun: float | None = None  # the moment of the first slot
        self._waits = True  # for a slot, from a place in the queue
        self._first_audio: float | None = None
        self._samples = 0
        self._texts: list[str] = []
        self._encoding: Future[bytes] = Future()  # what the encoder does, or did last
        self._encoding.set_result(b"")
        self._exit = ExitStack()
        self._place: Place | None = None
        self._enter()

    async def submit(self, text: str) -> None:
        """Begin to speak a script, after those before it.

        Raises:
            ApiError: The place was given back, and there is none now.
            DiaError: The script cannot be spoken.
        """
        self._texts.append(text)
        try:
            self._enter()
            plan = await self._service.plan(self._narrator, text)
            self._speeches.append(self._narrator.speak(plan))
        except (ApiError, DiaError):
            self.outcome = "refused"
            raise
        self._submitted = time.monotonic()
        self._service.metrics.text_tokens.inc(self.speech.num_tokens)

    def refuse(self, text: str) -> None:
        """Note that a script cannot be spoken, and is not submitted."""
        self._texts.append(text)
        self.outcome = "refused"

    async def begin(self) -> None:
        """Wait for a slot.

        Raises:
            ApiError: There was none in time.
        """
        begun = asyncio.wrap_future(self.speech.begun)
        left = self._submitted + self._service.settings.queue_timeout - time.monotonic()
        done, _ = await asyncio.wait({begun}, timeout=max(left, 0) if self._waits else None)
        if not done:
            self.outcome = "queue_timeout"
            self._service.metrics.rejections.labels("queue_timeout").inc()
            raise ApiError(
                503,
                f"no slot was free within {self._service.settings.queue_timeout:g} s: try again.",
                "queue_timeout",
                retry_after=self._service.admission.retry_after,
            )
        self._waits = False
        if self._place:
            self._place.begin()
        if self._begun is None:
            self._begun = time.monotonic()
            self._service.metrics.queue_time.observe(self._begun - self._asked)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """All that is left to do for a script that was submitted: its encoded audio, to its end.

        Raises:
            ApiError, DiaError: As in :meth:`begin` and :meth:`audio`.
        """
        await self.begin()
        async for encoded in self.audio():
            yield encoded
        if encoded := await self.finish():
            yield encoded

    async def audio(self) -> AsyncGenerator[bytes, None]:
        """The encoded audio of what was submitted last, as it is made.

        Raises:
            DiaError: The speech failed.
        """
        try:
            async for samples in self.speech.samples():
                self._samples += len(samples)
                if encoded := await self._encode(self._encoder.push, samples):
                    self._note_first_audio()
                    yield encoded
        except Exception:
            self.outcome = "failed"
            raise

    async def silence(self, seconds: float) -> AsyncGenerator[bytes, None]:
        """Encoded silence."""
        rate = self._narrator.sample_rate
        for samples in split(np.zeros(round(seconds * rate), np.float32), rate):
            self._samples += len(samples)
            if encoded := await self._encode(self._encoder.push, samples):
                yield encoded

    def rest(self) -> None:
        """Give the place back to others, until something is submitted again."""
        self._exit.close()
        self._place = None

    async def finish(self) -> bytes:
        """The end of the audio, when all was spoken."""
        encoded = await self._encode(self._encoder.finish)
        self._note_first_audio()
        self.outcome = "finished"
        return encoded

    def close(self) -> None:
        """Stop what runs, free the place, and note what became of it."""
        for speech in self._speeches:
            speech.cancel()
        self._encoding.add_done_callback(lambda _: self._encoder.close())  # not before it has ended
        self._exit.close()
        self._note()

    def _note(self) -> None:
        """Tell the metrics and the log what became of it."""
        metrics = self._service.metrics
        metrics.audio_seconds.inc(self.seconds)
        metrics.speeches.labels(self.outcome).inc()
        faults = [fault for speech in self._speeches for fault in speech.faults]
        metrics.faults.inc(len(faults))
        fields: dict[str, Any] = {"outcome": self.outcome, "seed": self.seed}
        fields |= text_field(" ".join(self._texts), self._service.settings)
        fields["audio_seconds"] = round(self.seconds, 3)
        if self._begun is not None:
            fields["queue_seconds"] = round(self._begun - self._asked, 3)
            fields["elapsed"] = round(self.elapsed, 3)
        if self._first_audio is not None:
            fields["first_audio_seconds"] = round(self._first_audio, 3)
        fields["faults"] = faults
        if self.outcome == "finished":
            is_cut = any(speech.finish_reason == "length" for speech in self._speeches)
            fields["finish_reason"] = "length" if is_cut else "eos"
            if self.elapsed:
                metrics.real_time_factor.observe(self.seconds / self.elapsed)
        log.info("speech", extra=fields)

    @property
    def speech(self) -> LiveSpeech:
        """What was submitted last."""
        if not self._speeches:
            raise RuntimeError("nothing was submitted")
        return self._speeches[-1]

    @property
    def ahead(self) -> int:
        """How many wait before it."""
        return self._place.ahead if self._place else 0

    @property
    def begun(self) -> bool:
        """Whether it has had a slot."""
        return self._begun is not None

    @property
    def seconds(self) -> float:
        """Of audio, so far."""
        return self._samples / self._narrator.sample_rate

    @property
    def elapsed(self) -> float:
        """Seconds since it had a slot."""
        return 0 if self._begun is None else time.monotonic() - self._begun

    def _enter(self) -> None:
        """Take a place, unless it has one."""
        if self._place is None:
            self._service.check_ready()
            self._waits = True
            self._place = self._exit.enter_context(self._service.admission.enter())

    async def _encode(self, call: Callable[P, bytes], *args: P.args, **kwargs: P.kwargs) -> bytes:
        """Let the encoder work beside the event loop."""
        self._encoding = self._service.threads.submit(call, *args, **kwargs)
        return await asyncio.wrap_future(self._encoding)

    def _note_first_audio(self) -> None:
        if self._first_audio is None:
            self._first_audio = time.monotonic() - self._asked
            self._service.metrics.first_audio_time.observe(self._first_audio)
