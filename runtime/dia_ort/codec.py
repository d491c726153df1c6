"""The codec's graphs: codes to samples, in windows, and samples to codes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dia_ort.audio import AudioChunk
from dia_ort.errors import InvalidAudioError, InvalidConfigError
from dia_ort.graphs import CodecSpec
from dia_ort.waiting import for_each

WINDOW_FRAMES = 256
"""Frames that a device decodes at once. It bounds the memory, as what follows does on the CPU."""

_THREAD_FRAMES = 32
"""Frames that a thread decodes at once, in about 55 MB."""

_LEAST_FRAMES = 2
"""Of those. Each window costs what four frames do besides, for its context."""

MOST_THREADS = 8
"""That decode on the CPU."""

CHUNK_FRAMES = (4, 8, 16, 32, 64)
"""Frames of a stream's first chunks, so that the first one is there soon; the last repeats."""


Codes = NDArray[np.int64]

RunDecoder = Callable[[Codes, Codes, Codes], NDArray[np.float32]]
"""The DAC decoder: the codes before those to decode, these, and those after them, each (1,
codebooks, frames), to (1, 1, samples)."""

RunEncoder = Callable[[NDArray[np.float32]], Codes]
"""The DAC encoder: (1, 1, samples) to (1, codebooks, frames)."""


@dataclass(frozen=True, slots=True)
class ChunkWindow:
    """A chunk of audio, and the codes that it is decoded from.

    Its samples depend on its own frames and ``CodecSpec.context_frames`` neighbours on either side
    (the decoder's receptive field), and on no others.

    Attributes:
        codec: Whose codes they are.
        index: Of the chunk, from 0.
        first: The first frame to decode it from.
        start: Its first frame.
        stop: The frame after its last.
        last: The frame after the last to decode it from.
        is_last: Whether the speech ends with it.
    """

    codec: CodecSpec
    index: int
    first: int
    start: int
    stop: int
    last: int
    is_last: bool

    @property
    def context(self) -> tuple[int, int]:
        """How many frames before and after it are decoded from, but not to be given."""
        return self.start - self.first, self.last - self.stop

    def chunk(self, samples: NDArray[np.float32]) -> AudioChunk:
        """The chunk, of its samples."""
        return AudioChunk(
            samples,
            self.codec.sample_rate,
            index=self.index,
            start=self.start * self.codec.hop_length,
            is_last=self.is_last,
        )


class ChunkWindows:
    """Divides speech into chunks, while it is made or afterwards. It counts frames, no more.

    No window is longer than its chunk and twice the context, however long the speech is.

    Args:
        codec: Of the speech.
        chunk_frames: Frames of the first chunk, the second, and so on; the last number counts for
            all that follow.

    Raises:
        InvalidConfigError: There are no such numbers, or some are less than 1.
    """

    def __init__(self, codec: CodecSpec, chunk_frames: Sequence[int] = CHUNK_FRAMES) -> None:
        numbers = chunk_frames if isinstance(chunk_frames, Sequence) else ()
        if not numbers or not all(isinstance(n, Integral) and n >= 1 for n in numbers):
            raise InvalidConfigError(
                f"chunk_frames is {chunk_frames!r}: give whole numbers from 1, as {CHUNK_FRAMES}."
            )
        self._codec = codec
        self._sizes = tuple(chunk_frames)
        self._index = 0
        self._start = 0
        self._is_over = False

    def next(self, frames: int, *, ended: bool) -> ChunkWindow | None:
        """The next chunk's window; None if it needs more frames, or there was the last one.

        Args:
            frames: How many are complete.
            ended: Whether there will be no more. Speech of no frames is one empty chunk.
        """
        stop = self._start + self._sizes[min(self._index, len(self._sizes) - 1)]
        if self._is_over or (not ended and frames < stop + self._codec.context_frames):
            return None
        stop, context = min(stop, frames), self._codec.context_frames
        window = ChunkWindow(
            self._codec,
            self._index,
            first=max(self._start - context, 0),
            start=self._start,
            stop=stop,
            last=min(stop + context, frames),
            is_last=ended and stop == frames,
        )
        self._index, self._start, self._is_over = self._index + 1, stop, window.is_last
        return window


def check_codes(codes: NDArray[Any], codec: CodecSpec) -> Codes:
    """Codes as the graphs take them, after a check.

    Args:
        codes: (frames, channels), whole numbers.
        codec: Whose codes they are.

    Raises:
        InvalidAudioError: The shape, the dtype or a value is not one of this codec.
    """
    array = np.asarray(codes)
    if array.ndim != 2 or array.shape[1] != codec.num_codebooks:
        raise InvalidAudioError(
            f"codes have the shape {array.shape}: this codec wants (frames, {codec.num_codebooks})."
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise InvalidAudioError(f"codes are {array.dtype}: give whole numbers.")
    if array.size and not 0 <= array.min() <= array.max() < codec.codebook_size:
        raise InvalidAudioError(
            f"codes reach from {array.min()} to {array.max()}: this codec has 0 to "
            f"{codec.codebook_size - 1}. Were they made with another codec?"
        )
    return array.astype(np.int64)


def check_context(context: tuple[int, int], frames: int) -> tuple[int, int]:
    """How many of the frames are context, before and after the others, after a check.

    Raises:
        InvalidConfigError: It is no two whole numbers from 0, or they are more than there are.
    """
    numbers = context if isinstance(context, Sequence) else ()
    if len(numbers) != 2 or not all(isinstance(n, Integral) and n >= 0 for n in numbers):
        raise InvalidConfigError(
            f"context is {context!r}: give the numbers of frames before and after, as (10, 10)."
        )
    if sum(numbers) > frames:
        raise InvalidConfigError(f"context is {context!r}, and there are {frames} frames of codes.")
    return int(numbers[0]), int(numbers[1])


class CodesDecoder:
    """Codes to samples, window by window; equal to decoding them at once, but for rounding.

    On the CPU, windows are decoded side by side, each in one thread: some of onnxruntime's kernels,
    as Sin, have no more. Their bounds do not depend on how many threads there are, and so neither
    do the samples.

    Args:
        run: The DAC decoder.
        codec: Its shapes.
        threads: How many decode on the CPU; None: another provider does, one window after another.
    """

    def __init__(self, run: RunDecoder, codec: CodecSpec, threads: int | None = None) -> None:
        self._run = run
        self._codec = codec
        self._threads = threads

    def decode(
        self,
        codes: Codes,
        context: tuple[int, int] = (0, 0),
        on_window: Callable[[], None] | None = None,
    ) -> NDArray[np.float32]:
        """Decode codes.

        Args:
            codes: (frames, codebooks), as :func:`check_codes` gives them.
            context: As :func:`check_context` gives it: of the frames, how many at the beginning and
                at the end are neighbours of the others alone.
            on_window: Called before each window, in whatever thread; what it raises ends it all.

        Returns:
            float32, (frames * hop_length,), without those of the context.
        """
        reach, hop = self._codec.context_frames, self._codec.hop_length
        begin, end = context[0], len(codes) - context[1]
        samples = np.empty((end - begin) * hop, np.float32)
        window = self._window(end - begin)

        def decode_window(start: int) -> None:
            if on_window:
                on_window()
            stop = min(start + window, end)
            bounds = (max(start - reach, 0), start, stop, stop + reach)
            parts = (np.ascontiguousarray(codes[a:b].T[None]) for a, b in pairwise(bounds))
            samples[(start - begin) * hop : (stop - begin) * hop] = self._run(*parts)[0, 0]

        for_each(decode_window, range(begin, end, window), self._threads or 1)
        return samples

    def _window(self, frames: int) -> int:
        """Frames of each window: on the CPU, half of what is short, so that two threads have it."""
        if self._threads is None:
            return WINDOW_FRAMES
        return min(_THREAD_FRAMES, max(-(-frames // 2), _LEAST_FRAMES))


def encode_samples(run: RunEncoder, samples: NDArray[np.float32], codec: CodecSpec) -> Codes:
    """Encode samples at the codec's rate, padded with silence to whole frames.

    Args:
        run: The DAC encoder.
        samples: float32, (samples,).
        codec: Its shapes.

    Returns:
        int64, (frames, codebooks).
    """
    padded = np.pad(samples, (0, -len(samples) % codec.hop_length))
    return np.ascontiguousarray(run(padded[None, None])[0].T)
