"""The codec's graphs: codes to samples, in windows, and samples to codes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dia_ort.errors import InvalidAudioError
from dia_ort.graphs import CodecSpec

WINDOW_FRAMES = 256
"""Frames decoded at once. It bounds the memory: three seconds of audio need about 250 MB."""


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

    Every window brings the neighbouring frames that its samples depend on
    (``CodecSpec.context_frames``, the decoder's receptive field) and drops their audio again.

    Args:
        run: The DAC decoder, (1, codebooks, frames) to (1, 1, samples).
        codes: (frames, codebooks).
        codec: Its shapes.
        window: Frames of audio to keep per call.

    Returns:
        float32, (frames * hop_length,).
    """
    frames, context, hop = len(codes), codec.context_frames, codec.hop_length
    samples = np.empty(frames * hop, np.float32)
    for start in range(0, frames, window):
        stop = min(start + window, frames)
        first, last = max(start - context, 0), min(stop + context, frames)
        audio = run(np.ascontiguousarray(codes[first:last].T[None]))[0, 0]
        samples[start * hop : stop * hop] = audio[(start - first) * hop : (stop - first) * hop]
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
