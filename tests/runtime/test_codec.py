"""Codes to audio: what is taken, and windows and context, which do not show."""

import threading
from itertools import pairwise

import numpy as np
import pytest

from dia_ort import Dia
from dia_ort.codec import CodesDecoder
from dia_ort.errors import InvalidAudioError, InvalidConfigError

CHANNELS, HOP = 9, 512
MAIN = threading.main_thread().name


@pytest.fixture(scope="module")
def dia():
    return Dia.load("demo", provider="cpu")


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(0, 1024, (40, CHANNELS))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((5, 8), int), r"codes have the shape \(5, 8\)"),
        (np.zeros(9, int), r"codes have the shape \(9,\)"),
        (np.zeros((5, 9)), "codes are float64"),
        (np.full((5, 9), -1), "codes reach from -1 to -1"),
        (np.full((5, 9), 1024), "codes reach from 1024 to 1024"),
    ],
)
def test_codes_that_are_refused(dia, codes, message):
    with pytest.raises(InvalidAudioError, match=message):
        dia.decode_codes(codes)


def test_no_codes_are_no_samples(dia):
    assert dia.decode_codes(np.zeros((0, 9), int)).shape == (0,)


@pytest.mark.parametrize(
    ("threads", "frames", "windows"),
    [
        (None, 300, [256, 44]),  # a device
        (1, 70, [32, 32, 6]),
        (1, 33, [17, 16]),
        *((threads, 32, [16, 16]) for threads in (1, 2, 8)),
        (2, 7, [4, 3]),
        (2, 4, [2, 2]),
        (2, 3, [2, 1]),
        (2, 1, [1]),
        (2, 0, []),
    ],
)
def test_windows(dia, threads, frames, windows):
    """With the context on either side that there is."""
    parts = []

    def run(*codes):
        parts.append(tuple(part.shape[-1] for part in codes))
        return np.zeros((1, 1, codes[1].shape[-1] * HOP), np.float32)

    codes = np.zeros((frames, CHANNELS), np.int64)
    CodesDecoder(run, dia.manifest.codec, threads).decode(codes)
    starts = np.cumsum([0, *windows])
    want = [
        (min(start, 10), stop - start, min(frames - stop, 10)) for start, stop in pairwise(starts)
    ]
    assert sorted(parts) == sorted(want)


def test_windows_do_not_show(dia, codes):
    """Nor does it what decodes them."""
    run, codec = dia._dac_decoder._run, dia.manifest.codec
    at_once = CodesDecoder(run, codec).decode(codes)
    in_windows = [CodesDecoder(run, codec, threads).decode(codes) for threads in (1, 2, 5)]
    assert all(np.array_equal(samples, in_windows[0]) for samples in in_windows)
    assert np.abs(in_windows[0] - at_once).max() < 1e-5


def test_what_a_window_raises_ends_it_all(dia):
    calls = []

    def on_window():
        calls.append(threading.current_thread())
        if len(calls) >= 3:
            raise KeyboardInterrupt

    codes = np.zeros((2000, CHANNELS), np.int64)
    with pytest.raises(KeyboardInterrupt):
        dia.decode_codes(codes, on_window=on_window)
    assert len(calls) < 63  # windows
    assert not [thread for thread in set(calls) if thread.is_alive() and thread.name != MAIN]


@pytest.mark.parametrize("context", [(0, 0), (1, 0), (2, 3), (0, 11), (10, 10), (25, 15), (40, 0)])
def test_context_is_heard_in_its_neighbours_alone(dia, codes, context):
    """Whatever is cut off inside the graph: the audio is the whole's, without the context's."""
    whole = dia.decode_codes(codes)
    want = whole[context[0] * HOP : (40 - context[1]) * HOP]
    have = dia.decode_codes(codes, context)
    assert have.shape == want.shape
    assert np.abs(have - want).max(initial=0) < 1e-5


@pytest.mark.parametrize(
    ("context", "message"),
    [
        *((context, "give the numbers of frames") for context in (None, 3, (1,), (1, 2, 3), "ab")),
        *((context, "give the numbers of frames") for context in ((-1, 0), (0, 1.5), (None, 1))),
        ((30, 11), "and there are 40 frames of codes"),
    ],
)
def test_contexts_that_are_refused(dia, codes, context, message):
    with pytest.raises(InvalidConfigError, match=message):
        dia.decode_codes(codes, context)
