"""Following a request: in the thread that runs it, or in others, as streams."""

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, Generic, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from dia_ort.audio import Audio, AudioChunk, FinishReason
from dia_ort.codec import CHUNK_FRAMES, ChunkWindow, ChunkWindows, Codes
from dia_ort.errors import EngineClosedError, GenerationCancelledError
from dia_ort.generation import Utterance
from dia_ort.graphs import CodecSpec
from dia_ort.waiting import as_completed

T = TypeVar("T")

Decode = Callable[[Codes, tuple[int, int]], Future[NDArray[np.float32]]]
"""Codes, (frames, channels), to their samples, in another thread; the context is as in
:meth:`dia_ort.Dia.decode_codes`."""


class Progress:
    """How far an utterance is, and what to wait for until it is further. For any thread.

    Attributes:
        utterance: The thread that runs it alone may change it; its complete frames never change.
        begun: Done when it has a slot, or has ended without one.
        ended: Done when no more comes; with the error if it failed.
    """

    def __init__(self, utterance: Utterance) -> None:
        self.utterance = utterance
        self.begun: Future[None] = _future()
        self.ended: Future[None] = _future()
        self._lock = threading.Lock()
        self._change: Future[None] | None = None

    def next_change(self) -> Future[None]:
        """A future of the next change: take it first, then look, and wait for it."""
        with self._lock:
            if self._change is None:
                self._change = _future()
            return self._change

    def notify(self) -> None:
        """Say that it has begun, and wake whoever waits for more."""
        if not self.begun.done():
            self.begun.set_result(None)
        with self._lock:
            change, self._change = self._change, None
        if change:
            change.set_result(None)

    def finish(self, error: Exception | None) -> None:
        """Say that it has ended, once."""
        if error:
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)
        self.notify()


def _future() -> Future[None]:
    """A future that nobody can cancel, so that one who waits and leaves spoils no other's wait."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


class Stream(ABC, Generic[T]):
    """Items as they are made, for ``for`` or for ``async for``; one consumer at a time.

    It is an iterator: leaving a loop early leaves the request running, and another loop goes on
    where that one stopped. A task that is cancelled while it waits loses nothing.
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        while isinstance(item := self._poll(), Future):
            next(as_completed([item]))
        if item is None:
            raise StopIteration
        return item

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        import asyncio  # noqa: PLC0415 - slow to load, and there already where it is needed

        while isinstance(item := self._poll(), Future):
            await asyncio.wrap_future(item)
        if item is None:
            raise StopAsyncIteration
        return item

    @abstractmethod
    def _poll(self) -> T | Future[Any] | None:
        """The next item, a future of what has to come before it, or None at the end."""


class FrameStream(Stream[NDArray[np.int64]]):
    """All new complete frames at a time, (frames, channels)."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._given = 0

    def _poll(self) -> NDArray[np.int64] | Future[Any] | None:
        change, ended = self._progress.next_change(), self._progress.ended.done()
        frames = self._progress.utterance.codes_from(self._given)
        self._given += len(frames)
        if len(frames):
            return frames
        return self._progress.ended.result() if ended else change


class AudioStream(Stream[AudioChunk]):
    """Chunks of audio, each decoded when it is asked for, in the context of its neighbours."""

    def __init__(self, progress: Progress, decode: Decode, windows: ChunkWindows) -> None:
        self._progress = progress
        self._decode = decode
        self._windows = windows
        self._window: ChunkWindow | None = None  # of the chunk that is being decoded
        self._samples: Future[NDArray[np.float32]] | None = None

    def _poll(self) -> AudioChunk | Future[Any] | None:
        change, ended = self._progress.next_change(), self._progress.ended.done()
        error = self._progress.ended.exception() if ended else None
        if isinstance(error, (GenerationCancelledError, EngineClosedError)):
            raise error  # nobody wants what is left
        if self._window is None:
            self._window = self._windows.next(
                self._progress.utterance.num_frames, ended=ended and error is None
            )
            if self._window is None:
                return self._progress.ended.result() if ended else change  # raises if it failed
        if self._samples is None or self._samples.cancelled():  # with the task that waited for it
            codes = _codes(self._progress.utterance, self._window)
            self._samples = self._decode(codes, self._window.context)
        if not self._samples.done():
            return self._samples
        chunk = self._window.chunk(self._samples.result())
        self._window = self._samples = None
        return chunk


class Generation:
    """A script on its way to speech: iterate over it to run it, in the caller's thread.

    Each turn of the loop gives one more complete frame of codes, (channels,). Leaving the loop
    early keeps what is done: :attr:`codes` has it.
    """

    def __init__(
        self,
        utterance: Utterance,
        steps: Iterator[None],
        decode: Callable[[Codes, tuple[int, int]], NDArray[np.float32]],
        codec: CodecSpec,
    ) -> None:
        self._utterance = utterance
        self._steps = steps
        self._decode = decode
        self._codec = codec

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        done = self._utterance.num_frames
        for _ in self._steps:
            yield from self._utterance.codes_from(done)
            done = self._utterance.num_frames

    def stream(
        self, chunk_frames: Sequence[int] = CHUNK_FRAMES
    ) -> Generator[AudioChunk, None, None]:
        """Run it, and give its audio from the start; see :meth:`dia_ort.Dia.stream`.

        Raises:
            InvalidConfigError, NumericalError: As there.
        """
        chunks = self._chunks(ChunkWindows(self._codec, chunk_frames))
        return (chunk for chunk in chunks if chunk is not None)

    def astream(
        self, chunk_frames: Sequence[int] = CHUNK_FRAMES
    ) -> AsyncGenerator[AudioChunk, None]:
        """:meth:`stream` for ``async for``; see :meth:`dia_ort.Dia.astream`.

        Raises:
            InvalidConfigError, NumericalError: As there.
        """
        return _in_a_thread(self._chunks(ChunkWindows(self._codec, chunk_frames)))

    def _chunks(self, windows: ChunkWindows) -> Generator[AudioChunk | None, None, None]:
        """The chunks as soon as they can be decoded, and None after each step."""
        utterance = self._utterance
        for _ in chain(self._steps, [None]):
            while window := windows.next(utterance.num_frames, ended=utterance.done):
                yield window.chunk(self._decode(_codes(utterance, window), window.context))
            yield None

    @property
    def codes(self) -> NDArray[np.int64]:
        """The complete frames so far, (frames, channels)."""
        return self._utterance.codes

    @property
    def seed(self) -> int:
        """That makes the same codes again."""
        return self._utterance.seed

    @property
    def finish_reason(self) -> FinishReason | None:
        """How it ended, as in :class:`dia_ort.Audio`; None while it has not."""
        return self._utterance.finish_reason if self._utterance.done else None

    def audio(self) -> Audio:
        """The finished speech.

        Raises:
            InvalidConfigError: It is not finished; decode :attr:`codes` instead.
        """
        return self._utterance.audio(self._decode(self.codes, (0, 0)), self._codec.sample_rate)


def _codes(utterance: Utterance, window: ChunkWindow) -> Codes:
    """What a chunk is decoded from, (frames, channels)."""
    return utterance.codes_from(window.first)[: window.last - window.first]


async def _in_a_thread(items: Generator[T | None, None, None]) -> AsyncGenerator[T, None]:
    """Drive a generator in a thread of its own, which ends with it, and leave out each None.

    Whoever stops early, or is cancelled, does not wait: the item that is being made is finished in
    the thread, which then closes the generator.
    """
    import asyncio  # noqa: PLC0415 - as above

    end = object()
    thread = ThreadPoolExecutor(1, "dia-ort-stream")
    loop = asyncio.get_running_loop()
    try:
        while (item := await loop.run_in_executor(thread, next, items, end)) is not end:
            if item is not None:
                yield cast(T, item)
    finally:
        thread.submit(items.close)
        thread.shutdown(wait=False)
