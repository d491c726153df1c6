"""Codes to audio: what is taken, and windows and context, which do not show."""

import numpy as np
import pytest

from dia_ort import Dia
from dia_ort.codec import decode_codes
from dia_ort.errors import InvalidAudioError, InvalidConfigError

CHANNELS, HOP = 9, 512


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


@pytest.mark.parametrize("window", [7, 40, 100])
def test_windows_do_not_show(dia, codes, window):
    """Codes decoded in windows sound as if decoded at once."""
    parts = []

    def run(before, codes, after):
        parts.append((before.shape[-1], codes.shape[-1], after.shape[-1]))
        return dia._dac_decoder(before, codes, after)

    whole = decode_codes(dia._dac_decoder, codes, dia.manifest.codec)
    windowed = decode_codes(run, codes, dia.manifest.codec, window=window)
    assert np.abs(windowed - whole).max() < 1e-5
    if window == 7:
        assert parts == [(0, 7, 10), (7, 7, 10), *[(10, 7, 10)] * 2, (10, 7, 5), (10, 5, 0)]


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
