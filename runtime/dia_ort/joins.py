"""Pieces of speech to one, without clicks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

_NOTHING = np.empty(0, np.float32)


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

    A piece comes whole, by :meth:`add`, or in parts, by :meth:`push` and at its end
    :meth:`close`. The whole is the same.

    Args:
        sample_rate: In hertz.
        crossfade: In seconds; 0: none.

    Attributes:
        start: The latest piece's first sample in the whole.
    """

    def __init__(self, sample_rate: int, crossfade: float) -> None:
        self.start: int = 0
        self._rate = sample_rate
        self._fade = round(crossfade * sample_rate)
        self._given = 0
        self._tail = _NOTHING  # fades into the next piece
        self._after_pause = False
        self._piece = _NOTHING  # what has come of it and is not given
        self._length = 0  # of what has come of it
        self._begun = False  # to give it

    def add(self, samples: Samples, pause: float = 0.0) -> Joined:
        """Add a piece, (samples,), and so many seconds of silence after it."""
        parts = [self.push(samples), self.close(pause)]
        return Joined(self.start, np.concatenate(parts))

    def push(self, samples: Samples) -> Samples:
        """Add a part of a piece, (samples,); returns the next samples of the whole, (samples,).

        The beginning of a piece is kept back until its crossfade is certain, and as much of its
        end as may fade into the next one.
        """
        self._piece = np.concatenate([self._piece, samples])
        self._length += len(samples)
        if not self._begun:
            if (len(self._tail) or self._after_pause) and self._length < 2 * self._fade:
                return _NOTHING
            self._begin()
        return self._give(len(self._piece) - self._fade_of_piece())

    def close(self, pause: float = 0.0) -> Samples:
        """End a piece, with so many seconds of silence after it; returns as :meth:`push`."""
        if not self._begun:
            self._begin()
        is_empty = not self._length
        fade = len(self._piece) if is_empty else self._fade_of_piece()
        given = [self._give(len(self._piece) - fade)]
        self._tail, self._piece = self._piece, _NOTHING
        self._after_pause = pause > 0 or (self._after_pause and is_empty)
        if pause > 0:
            silence = np.zeros(round(pause * self._rate), np.float32)
            given += [self._tail * _ramp(fade)[::-1], silence]
            self._tail = _NOTHING
            self._given += fade + len(silence)
        self._length, self._begun = 0, False
        return np.concatenate(given)

    def end(self) -> Samples:
        """What is left: the end of the last piece."""
        tail, self._tail = self._tail, _NOTHING
        self._given += len(tail)
        return tail

    def _fade_of_piece(self) -> int:
        """At both of its ends, as far as it has come."""
        return min(self._fade, self._length // 2)

    def _begin(self) -> None:
        """Fade the last piece's tail into this one."""
        most, kept = self._fade_of_piece(), len(self._tail)
        fade = most if self._after_pause else min(most, kept)
        body = self._piece.astype(np.float32)
        body[:fade] *= _ramp(fade)
        if not self._after_pause:
            kept -= fade
            body[:fade] += self._tail[kept:] * _ramp(fade)[::-1]
        self.start = self._given + kept
        self._piece = np.concatenate([self._tail[:kept], body])
        self._tail = _NOTHING
        self._begun = True

    def _give(self, size: int) -> Samples:
        """The first samples of the piece."""
        given, self._piece = self._piece[:size], self._piece[size:]
        self._given += len(given)
        return given


def _ramp(size: int) -> Samples:
    """From 0 to 1, both left out."""
    return ((np.arange(size) + 0.5) / max(size, 1)).astype(np.float32)


def split(samples: Samples, size: int) -> Iterator[Samples]:
    """Pieces of samples, (samples,), of so many at the most."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
