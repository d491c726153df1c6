"""Following a request that another thread runs: its progress, and streams of frames and audio."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dia_ort.audio import AudioChunk
from dia_ort.generation import Utterance
from dia_ort.graphs import CodecSpec

T = TypeVar("T")

Decode = Callable[[NDArray[np.int64]], Future[NDArray[np.float32]]]
"""Codes, (frames, channels), to their samples, in another thread."""


class Progress:
    """How far an utterance is, and what to wait for until it is further. For any thread.

    Attributes:
        utterance: The thread that runs it alone may change it; its complete frames never change.
        ended: Done when no more comes; with the error if it failed.
    """

    def __init__(self, utterance: Utterance) -> None:
        self.utterance = utterance
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
        """Wake whoever waits."""
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
            item.exception()  # waits
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

    def __init__(
        self, progress: Progress, decode: Decode, codec: CodecSpec, chunk_frames: Sequence[int]
    ) -> None:
        self._progress = progress
        self._decode = decode
        self._codec = codec
        self._sizes = list(chunk_frames)
        self._index = 0
        self._start = 0  # the chunk's first frame
        self._stop = 0
        self._is_last = False
        self._samples: Future[NDArray[np.float32]] | None = None  # context included

    def _poll(self) -> AudioChunk | Future[Any] | None:
        if self._samples is None or self._samples.cancelled():  # with the task that waited for it
            change, ended = self._progress.next_change(), self._progress.ended.done()
            if ended:
                self._progress.ended.result()  # raises what the request failed with
                if self._is_last:
                    return None
            frames = self._progress.utterance.num_frames
            stop = self._start + self._sizes[min(self._index, len(self._sizes) - 1)]
            if not ended and frames < stop + self._codec.context_frames:
                return change
            self._stop, self._is_last = min(stop, frames), ended and stop >= frames
            self._samples = self._decode(self._window())
        return self._chunk(self._samples.result()) if self._samples.done() else self._samples

    def _window(self) -> NDArray[np.int64]:
        """The codes of the chunk and of its neighbours on both sides."""
        first = self._start - self._context_before
        last = self._stop + self._codec.context_frames
        return self._progress.utterance.codes_from(first)[: last - first]

    @property
    def _context_before(self) -> int:
        return min(self._codec.context_frames, self._start)

    def _chunk(self, samples: NDArray[np.float32]) -> AudioChunk:
        """Cut the chunk out of its window, and go on to the next."""
        hop, before = self._codec.hop_length, self._context_before
        chunk = AudioChunk(
            samples[before * hop : (before + self._stop - self._start) * hop],
            self._codec.sample_rate,
            index=self._index,
            start=self._start * hop,
            is_last=self._is_last,
        )
        self._index, self._start, self._samples = self._index + 1, self._stop, None
        return chunk
