"""How speech came out: silences in it, and whether it is about as long as its text warrants.

A stretch is silent if its level is under -60 dB of full scale, or 40 dB under the loud parts. The
level is the standard deviation in windows of 10 ms, so an offset of the samples does not count; nor
does a sound of less than 30 ms with silence on both sides, which is a click.
"""

import numpy as np
from numpy.typing import NDArray

from dia_ort.audio import FinishReason
from dia_ort.joins import Joiner

Samples = NDArray[np.float32]

_WINDOW = 0.01  # seconds
_CLICK = 3  # windows
_SILENT = 10 ** (-60 / 20)
_QUIETER = 10 ** (-40 / 20)
_LOUD = 95  # percentile of the levels
_CROSSFADE = 0.005  # seconds, where silence is cut out

_FACTOR = 3
_TOLERANCE = 1.0  # seconds; short texts vary most
_LEAST = 5


def find_silences(samples: Samples, sample_rate: int) -> list[tuple[int, int]]:
    """All silent stretches, as the first sample of each and the first one after it, in order.

    Args:
        samples: Mono, (samples,).
        sample_rate: In hertz.
    """
    size = max(1, round(_WINDOW * sample_rate))
    if not len(samples):
        return []
    padded = np.pad(samples, (0, -len(samples) % size), mode="edge")
    levels = padded.reshape(-1, size).std(axis=1)
    is_sound = levels > max(_SILENT, _QUIETER * float(np.percentile(levels, _LOUD)))
    for start, stop in _runs(is_sound):
        if stop - start < _CLICK:
            is_sound[start:stop] = False
    return [
        (start * size, min(stop * size, len(samples)))
        for start, stop in _runs(np.logical_not(is_sound))
    ]


def shorten_silences(samples: Samples, sample_rate: int, limit: float) -> Samples:
    """Cut every silence that is longer than a limit down to it: at both ends, and within.

    Args:
        samples: Mono, (samples,).
        sample_rate: In hertz.
        limit: In seconds, 0 or more.
    """
    most = round(limit * sample_rate)
    joiner = Joiner(sample_rate, _CROSSFADE)
    pieces: list[Samples] = []
    kept = 0  # up to here
    for start, stop in find_silences(samples, sample_rate):
        if stop - start > most:
            before = most if stop == len(samples) else 0 if start == 0 else most // 2
            pieces.append(samples[kept : start + before])
            kept = stop if stop == len(samples) else stop - (most - before)
    pieces.append(samples[kept:])
    whole = [joiner.add(piece).samples for piece in pieces if len(piece)]
    return np.concatenate([*whole, joiner.end()])


def sounding_seconds(samples: Samples, sample_rate: int) -> float:
    """How long it is without its silences."""
    silent = sum(stop - start for start, stop in find_silences(samples, sample_rate))
    return (len(samples) - silent) / sample_rate


def find_fault(
    samples: Samples, sample_rate: int, finish_reason: FinishReason, expected: float
) -> str | None:
    """What is wrong with a chunk of speech, as far as its length tells; None: nothing.

    Args:
        samples: Mono, (samples,).
        sample_rate: In hertz.
        finish_reason: How it ended.
        expected: How long its text would take, in seconds (``PlannedChunk.seconds``).

    Returns:
        That it is longer than :func:`longest`; ran to the most steps; or has, silences apart, less
        than a third of what is expected less a second, or than a fifth of it.
    """
    seconds = len(samples) / sample_rate
    if seconds > longest(expected):
        return f"it lasts {seconds:.1f} s, and its text about {expected:.1f} s"
    if finish_reason == "length":
        return "it ran to its most decoder steps"
    sounding = sounding_seconds(samples, sample_rate)
    if not sounding:
        return "it is silent"
    if sounding < max((expected - _TOLERANCE) / _FACTOR, expected / _LEAST):
        return f"it has {sounding:.1f} s of sound, and its text takes about {expected:.1f} s"
    return None


def longest(expected: float) -> float:
    """What is far too long for a text that takes so many seconds: thrice that, and a second."""
    return _FACTOR * expected + _TOLERANCE


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where the mask is true, as stretches."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
