"""Pieces of speech to one, without clicks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """What a piece adds to the whole.

    Attributes:
        start: The piece's first sample in the whole.
        samples: The next samples of the whole. What fades into the next piece comes with that.
    """

    start: int
    samples: Samples


class Joiner:
    """Joins pieces, with linear crossfades or with pauses between them.

    Linear, because the sum is never louder than its parts. Two pieces overlap by the crossfade, or
    by half of the shorter one; into a pause, and out of it, they fade as long. The first piece's
    beginning and the last one's end stay as they are.

    Args:
        sample_rate: In hertz.
        crossfade: In seconds; 0: none.
    """

    def __init__(self, sample_rate: int, crossfade: float) -> None:
        self._rate = sample_rate
        self._fade = round(crossfade * sample_rate)
        self._given = 0
        self._tail = np.empty(0, np.float32)  # fades into the next piece
        self._after_pause = False

    def add(self, samples: Samples, pause: float = 0.0) -> Joined:
        """Add a piece, (samples,), and so many seconds of silence after it."""
        most = min(self._fade, len(samples) // 2)
        fade = most if self._after_pause else min(most, len(self._tail))
        body = samples.astype(np.float32)
        body[:fade] *= _ramp(fade)
        kept = len(self._tail)
        if not self._after_pause:
            kept -= fade
            body[:fade] += self._tail[kept:] * _ramp(fade)[::-1]
        start = self._given + kept
        whole = np.concatenate([self._tail[:kept], body])
        out = most if len(samples) else len(self._tail)
        self._tail = whole[len(whole) - out :]
        whole = whole[: len(whole) - out]
        self._after_pause = pause > 0 or (self._after_pause and not len(samples))
        if pause > 0:
            silence = np.zeros(round(pause * self._rate), np.float32)
            whole = np.concatenate([whole, self._tail * _ramp(out)[::-1], silence])
            self._tail = self._tail[:0]
        self._given += len(whole)
        return Joined(start, whole)

    def end(self) -> Samples:
        """What is left: the end of the last piece."""
        tail, self._tail = self._tail, self._tail[:0]
        self._given += len(tail)
        return tail


def _ramp(size: int) -> Samples:
    """From 0 to 1, both left out."""
    return ((np.arange(size) + 0.5) / max(size, 1)).astype(np.float32)
