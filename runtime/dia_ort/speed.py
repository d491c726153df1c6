"""Faster or slower speech at the same pitch, by FFmpeg's ``atempo`` through PyAV."""

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dia_ort.errors import InvalidConfigError

SLOWEST, FASTEST = 0.5, 2.0
_BLOCK = 1 << 14  # samples


def check_speed(speed: float) -> None:
    """Refuse a speed that cannot be had here.

    Raises:
        InvalidConfigError: It is not from 0.5 to 2; or it is not 1, and PyAV is not installed.
    """
    if not SLOWEST <= speed <= FASTEST:
        raise InvalidConfigError(
            f"speed is {speed:g}: give a number from {SLOWEST:g} (half as fast) to {FASTEST:g}"
        )
    if speed != 1:
        _load_av()


def change_speed(
    samples: NDArray[np.float32], sample_rate: int, speed: float
) -> NDArray[np.float32]:
    """Speech ``speed`` times as fast, at the same pitch.

    Args:
        samples: Mono, (samples,).
        sample_rate: In hertz.
        speed: From 0.5 to 2; 1 leaves the samples as they are.

    Returns:
        Mono, (samples / speed,).

    Raises:
        InvalidConfigError: As in :func:`check_speed`.
    """
    check_speed(speed)
    if speed == 1 or not len(samples):
        return samples
    av = _load_av()
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=sample_rate, format="flt", layout="mono", time_base=Fraction(1, sample_rate)
    )
    sink = graph.add("abuffersink")
    graph.link_nodes(source, graph.add("atempo", str(speed)), sink).configure()
    padded = np.pad(samples, (0, sample_rate // 4))  # the filter keeps the last windows back
    blocks = []
    for start in range(0, len(padded), _BLOCK):
        block = np.ascontiguousarray(padded[None, start : start + _BLOCK])
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, start
        source.push(frame)
        blocks += _pull(av, sink)
    source.push(None)
    blocks += _pull(av, sink)
    return np.concatenate(blocks)[: round(len(samples) / speed)]


def _pull(av: Any, sink: Any) -> list[NDArray[np.float32]]:
    """All that the filter has ready."""
    blocks = []
    while True:
        try:
            blocks.append(sink.pull().to_ndarray()[0])
        except (av.error.BlockingIOError, av.error.EOFError):
            return blocks


def _load_av() -> Any:
    try:
        import av  # noqa: PLC0415 - large, and needed only here
    except ImportError as error:
        raise InvalidConfigError(
            "another speed than 1 needs PyAV: pip install 'dia-ort[speed]'"
        ) from error
    return av
