import numpy as np
import pytest

from dia_ort.errors import InvalidAudioError, InvalidTextError
from dia_ort.voice import Voice


def test_codes_are_a_read_only_copy():
    codes = np.arange(18, dtype=np.int16).reshape(2, 9)
    voice = Voice(codes, "[S1] Hello.")
    codes[:] = 0
    assert voice.codes.dtype == np.int64
    assert voice.codes.tolist() == np.arange(18).reshape(2, 9).tolist()
    with pytest.raises(ValueError, match="read-only"):
        voice.codes[0, 0] = 5


def test_lists_are_taken():
    assert Voice([[1, 2], [3, 4]]).codes.shape == (2, 2)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((2, 9)), "float64: give integers"),
        (np.zeros((2, 9), bool), "bool: give integers"),
        (np.zeros(9, int), r"shape \(9,\)"),
        (np.zeros((1, 2, 9), int), r"shape \(1, 2, 9\)"),
        (np.zeros((0, 9), int), "at least one frame"),
        (np.zeros((9, 0), int), r"shape \(9, 0\)"),
        (np.array([[3, -1]]), "go down to -1"),
    ],
)
def test_other_codes_are_refused(codes, message):
    with pytest.raises(InvalidAudioError, match=message):
        Voice(codes)


def test_a_transcript_that_is_not_text_is_refused():
    with pytest.raises(InvalidTextError, match="transcript is bytes"):
        Voice(np.zeros((1, 9), int), b"hello")


def test_the_transcript_goes_before_the_text():
    codes = np.zeros((1, 9), int)
    assert Voice(codes, " [S1] Hello.\n").script("[S2] Hi!") == "[S1] Hello. [S2] Hi!"
    assert Voice(codes).script("[S1] Hi!") == "[S1] Hi!"
    assert Voice(codes, " ").script("[S1] Hi!") == "[S1] Hi!"
