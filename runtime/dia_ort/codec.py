"""The codec's graphs: codes to samples, in windows, and samples to codes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dia_ort.audio import AudioChunk
from dia_ort.errors import InvalidAudioError, InvalidConfigError
from dia_ort.graphs import CodecSpec

WINDOW_FRAMES = 256
"""Frames decoded at once. It bounds the memory: three seconds of audio need about 250 MB."""

CHUNK_FRAMES = (4, 8, 16, 32, 64)
"""Frames of a stream's first chunks, so that the first one is there soon; the last repeats."""


@dataclass(frozen=True, slots=True)
class ChunkWindow:
    """A chunk of audio, and the codes that it is decoded from.

    Its samples depend on its own frames and ``CodecSpec.context_frames`` neighbours on either side
    (the decoder's receptive field), and on no others. So these are decoded with it, and their audio
    is dropped again.

    Attributes:
        codec: Whose codes they are.
        index: Of the chunk, from 0.
        start: Its first frame.
        stop: The frame after its last.
        is_last: Whether the speech ends with it.
    """

    codec: CodecSpec
    index: int
    start: int
    stop: int
    is_last: bool

    @property
    def first(self) -> int:
        """The first frame to be decoded."""
        return max(self.start - self.codec.context_frames, 0)

    @property
    def last(self) -> int:
        """The frame after the last to be decoded; the speech may end before it."""
        return self.stop + self.codec.context_frames

    def cut(self, samples: NDArray[np.float32]) -> AudioChunk:
        """The chunk, of what the frames from :attr:`first` to :attr:`last` were decoded to."""
        hop, before = self.codec.hop_length, self.start - self.first
        return AudioChunk(
            samples[before * hop : (before + self.stop - self.start) * hop],
            self.codec.sample_rate,
            index=self.index,
            start=self.start * hop,
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
        window = ChunkWindow(
            self._codec, self._index, self._start, min(stop, frames), ended and stop >= frames
        )
        self._index, self._start, self._is_over = self._index + 1, window.stop, window.is_last
        return window


def check_codes(codes: NDArray[Any], codec: CodecSpec) -> NDArray[np.int64]:
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


def decode_codes(
    run: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    codes: NDArray[np.int64],
    codec: CodecSpec,
    window: int = WINDOW_FRAMES,
) -> NDArray[np.float32]:
    """Decode codes window by window; equal to decoding them at once, but for rounding.

    Args:
        run: The DAC decoder, (1, codebooks, frames) to (1, 1, samples).
        codes: (frames, codebooks).
        codec: Its shapes.
        window: Frames of audio to keep per call.

    Returns:
        float32, (frames * hop_length,).
    """
    samples = np.empty(len(codes) * codec.hop_length, np.float32)
    windows = ChunkWindows(codec, (window,))
    while len(codes) and (part := windows.next(len(codes), ended=True)):
        audio = run(np.ascontiguousarray(codes[part.first : part.last].T[None]))[0, 0]
        chunk = part.cut(audio)
        samples[chunk.start : chunk.start + len(chunk.samples)] = chunk.samples
    return samples


def encode_samples(
    run: Callable[[NDArray[np.float32]], NDArray[np.int64]],
    samples: NDArray[np.float32],
    codec: CodecSpec,
) -> NDArray[np.int64]:
    """Encode samples at the codec's rate, padded with silence to whole frames.

    Args:
        run: The DAC encoder, (1, 1, samples) to (1, codebooks, frames).
        samples: float32, (samples,).
        codec: Its shapes.

    Returns:
        int64, (frames, codebooks).
    """
    padded = np.pad(samples, (0, -len(samples) % codec.hop_length))
    return np.ascontiguousarray(run(padded[None, None])[0].T)
