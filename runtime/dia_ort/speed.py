"""Faster or slower speech at the same pitch, by FFmpeg's ``atempo`` through PyAV."""

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dia_ort.checks import check_number
from dia_ort.errors import InvalidConfigError

SLOWEST, FASTEST = 0.25, 4.0
_ONE_FILTER = (0.5, 2.0)  # atempo goes no slower, and any faster it leaves samples out
_BLOCK = 1 << 10  # samples; what the filter gives at a time is as long as what it takes

_Samples = NDArray[np.float32]


def check_speed(speed: float) -> None:
    """Refuse a speed that cannot be had here.

    Raises:
        InvalidConfigError: It is not from 0.25 to 4; or it is not 1, and PyAV is not installed.
    """
    check_number("speed", speed, SLOWEST, FASTEST)
    if speed != 1:
        _load_av()


def change_speed(samples: _Samples, sample_rate: int, speed: float) -> _Samples:
    """Speech ``speed`` times as fast, at the same pitch.

    Args:
        samples: Mono, (samples,).
        sample_rate: In hertz.
        speed: From 0.25 to 4; 1 leaves the samples as they are.

    Returns:
        Mono, (samples / speed,).

    Raises:
        InvalidConfigError: As in :func:`check_speed`.
    """
    check_speed(speed)
    if speed == 1:
        return samples
    changer = SpeedChanger(sample_rate, speed)
    return np.concatenate([changer.push(samples), changer.finish()])


class SpeedChanger:
    """Changes the speed of speech while it comes, as :func:`change_speed` does for the whole.

    What comes out does not depend on how the speech is cut into pushes. It lags behind by the
    filter's windows, which are up to a tenth of a second of speech, and a quarter where it takes
    two filters: below half the speed, and above twice.

    Args:
        sample_rate: In hertz.
        speed: From 0.25 to 4; 1 leaves the samples as they are.

    Raises:
        InvalidConfigError: As in :func:`check_speed`.
    """

    def __init__(self, sample_rate: int, speed: float) -> None:
        check_speed(speed)
        self._rate = sample_rate
        self._speed = speed
        self._tempos = _split_tempo(speed)
        self._taken = self._given = 0  # samples
        if self._tempos:
            self._open_filters()

    def push(self, samples: _Samples) -> _Samples:
        """Take the next samples, (samples,), and return those that are ready."""
        if not self._tempos:
            return samples
        ready = self._filter(samples)
        self._given += len(ready)
        return ready

    def finish(self) -> _Samples:
        """Return the samples that are left; nothing can be pushed any more."""
        if not self._taken:
            return np.empty(0, np.float32)
        left = round(self._taken / self._speed) - self._given
        silence = np.zeros(self._rate // 4 * len(self._tempos), np.float32)
        rest = self._filter(silence)  # the filters keep their last windows back
        self._source.push(None)
        return np.concatenate([rest, *self._pull()])[:left]

    def _open_filters(self) -> None:
        self._av = _load_av()
        self._graph = self._av.filter.Graph()  # its filters do not keep it
        self._source = self._graph.add_abuffer(
            sample_rate=self._rate, format="flt", layout="mono", time_base=Fraction(1, self._rate)
        )
        self._sink = self._graph.add("abuffersink")
        filters = [self._graph.add("atempo", str(tempo)) for tempo in self._tempos]
        self._graph.link_nodes(self._source, *filters, self._sink).configure()

    def _filter(self, samples: _Samples) -> _Samples:
        blocks = [np.empty(0, np.float32)]
        for start in range(0, len(samples), _BLOCK):
            block = np.ascontiguousarray(samples[None, start : start + _BLOCK])
            frame = self._av.AudioFrame.from_ndarray(block, format="flt", layout="mono")
            frame.sample_rate, frame.pts = self._rate, self._taken
            self._taken += block.shape[1]
            self._source.push(frame)
            blocks += self._pull()
        return np.concatenate(blocks)

    def _pull(self) -> list[_Samples]:
        """All that the filters have ready."""
        blocks = []
        while True:
            try:
                blocks.append(self._sink.pull().to_ndarray()[0])
            except (self._av.error.BlockingIOError, self._av.error.EOFError):
                return blocks


def _split_tempo(speed: float) -> list[float]:
    """The tempos of filters that make the speed, one after the other."""
    if speed == 1:
        return []
    if _ONE_FILTER[0] <= speed <= _ONE_FILTER[1]:
        return [speed]
    return [speed**0.5] * 2


def _load_av() -> Any:
    try:
        import av  # noqa: PLC0415 - large, and needed only here
    except ImportError as error:
        raise InvalidConfigError(
            "another speed than 1 needs PyAV: pip install 'dia-ort[speed]'"
        ) from error
    return av
