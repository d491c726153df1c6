"""What is compared of two recordings: log-mel spectra, their alignment, and pitch."""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from demo_voice.clips import HOP_LENGTH
from demo_voice.espeak import SAMPLE_RATE

Samples = NDArray[np.float32]
Features = NDArray[np.float32]

_WINDOW, _BANDS, _HIGHEST = 1024, 40, 10_000.0
_FLOOR = 1e-3
_LOWEST_PITCH, _HIGHEST_PITCH = 60.0, 400.0
_PITCH_WINDOW = 2048
_VOICED = 0.5
"""Autocorrelation above this, relative to the power, is voice."""


def features(samples: Samples) -> Features:
    """Log-mel spectra, float32, (frames, bands), a frame each HOP_LENGTH samples."""
    frames = _frames(samples, _WINDOW) * np.hanning(_WINDOW).astype(np.float32)
    magnitudes = np.abs(np.fft.rfft(frames)) / math.sqrt(_WINDOW)
    logs: Features = np.log10(magnitudes @ _mel_filters().T + _FLOOR).astype(np.float32)
    return logs


@cache
def _mel_filters() -> NDArray[np.float64]:
    """Triangles on the mel scale, each of sum 1: (bands, window / 2 + 1)."""
    top = 2595 * math.log10(1 + _HIGHEST / 700)
    edges = 700 * (10 ** (np.linspace(0, top, _BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)
    rows = [np.interp(frequencies, edges[i : i + 3], (0, 1, 0)) for i in range(_BANDS)]
    nearest = [int(np.abs(frequencies - edge).argmin()) for edge in edges[1:-1]]
    for row, bin_ in zip(rows, nearest, strict=True):
        if not row.any():  # narrower than a bin
            row[bin_] = 1
    return np.array([row / row.sum() for row in rows])


def _frames(samples: Samples, window: int) -> Samples:
    """Windows each HOP_LENGTH samples, (frames, window); the last one is filled up."""
    count = max(1, math.ceil((len(samples) - window) / HOP_LENGTH) + 1)
    padded = np.pad(samples, (0, max(0, (count - 1) * HOP_LENGTH + window - len(samples))))
    return np.lib.stride_tricks.sliding_window_view(padded, window)[::HOP_LENGTH][:count]


def align(first: Features, second: Features) -> tuple[float, NDArray[np.int64]]:
    """Dynamic time warping.

    Args:
        first: (m, bands).
        second: (n, bands).

    Returns:
        The sum of the distances (mean absolute difference) along the best path over m + n, and that
        path, int64, (steps, 2), pairs of frames.
    """
    distance = np.abs(first[:, None] - second[None]).mean(2)
    m, n = distance.shape
    total = np.full((m + 1, n + 1), np.inf)
    total[0, 0] = 0
    before = np.zeros((m + 1, n + 1), np.int8)
    for diagonal in range(2, m + n + 1):  # the cells of one depend on the two before it alone
        i = np.arange(max(1, diagonal - n), min(m, diagonal - 1) + 1)
        j = diagonal - i
        ways = np.stack([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
        before[i, j] = ways.argmin(0)
        total[i, j] = ways.min(0) + distance[i - 1, j - 1]
    path, i, j = [], m, n
    while i:
        path.append((i - 1, j - 1))
        way = before[i, j]
        i, j = i - (way != 2), j - (way != 1)
    return float(total[m, n] / (m + n)), np.array(path[::-1])


def pitch(samples: Samples) -> float:
    """The median fundamental frequency of the voiced frames in Hz; nan if there are none."""
    frames = _frames(samples, _PITCH_WINDOW) * np.hanning(_PITCH_WINDOW)
    spectra = np.fft.rfft(frames, 2 * _PITCH_WINDOW)
    correlation = np.fft.irfft(np.abs(spectra) ** 2)
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(_PITCH_WINDOW), 2 * _PITCH_WINDOW)) ** 2)
    shortest, longest = (int(SAMPLE_RATE / f) for f in (_HIGHEST_PITCH, _LOWEST_PITCH))
    lags = np.arange(shortest, longest)
    power = correlation[:, 0]
    relative = correlation[:, lags] / window[lags] * window[0] / np.maximum(power, 1e-9)[:, None]
    loud = power > 0.05 * power.max(initial=1e-9)
    voiced = loud & (relative.max(1) > _VOICED)
    if not voiced.any():
        return math.nan
    return float(np.median([SAMPLE_RATE / lags[_period(row)] for row in relative[voiced]]))


def _period(correlation: NDArray[np.float64]) -> int:
    """The first of the peaks that are about as high as the highest: the others are multiples."""
    start = int(np.argmax(correlation > 0.9 * correlation.max()))
    while start + 1 < len(correlation) and correlation[start + 1] > correlation[start]:
        start += 1
    return start
