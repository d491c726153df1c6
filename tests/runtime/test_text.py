import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_ort.errors import InvalidTextError
from dia_ort.text import encode_text, has_speaker_tag


def test_tags_become_bytes_1_and_2():
    tokens = encode_text("[S1] Hi [S2] ho", 1024)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [1, *b" Hi ", 2, *b" ho"]


def test_characters_become_their_utf8_bytes():
    assert encode_text("é漢🙂", 1024).tolist() == list("é漢🙂".encode())


def test_a_tag_inside_a_tag_is_replaced_once_as_upstream_does():
    assert encode_text("[S[S1]1] a", 1024).tolist() == [*b"[S", 1, *b"1] a"]


def test_other_brackets_are_text():
    assert encode_text("[s1] [S3] x", 1024).tolist() == list(b"[s1] [S3] x")


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000", "[S1]", "[S1] [S2] ", "[S1][S1]"])
def test_a_script_without_words_is_refused(text):
    with pytest.raises(InvalidTextError, match="no words"):
        encode_text(text, 1024)


@pytest.mark.parametrize("text", [b"[S1] Hi", None, ["Hi"], 3])
def test_what_is_not_a_str_is_refused(text):
    with pytest.raises(InvalidTextError, match="not str"):
        encode_text(text, 1024)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\0b", "NUL character at position 1"),
        ("\x01 hello", r"write \[S1\]"),
        ("hello \x02", r"position 6.*write \[S2\]"),
        ("hello \ud83d", "lone surrogate.*UTF-8"),
        ("\udcff", "lone surrogate"),
    ],
)
def test_reserved_and_broken_characters_are_refused(text, message):
    with pytest.raises(InvalidTextError, match=message):
        encode_text(text, 1024)


def test_length_is_counted_in_tokens_and_nothing_is_cut():
    text = "[S1]" + "é" * 5
    assert encode_text(text, 11).size == 11
    with pytest.raises(InvalidTextError, match=r"is 11 bytes long.*takes 10: split it"):
        encode_text(text, 10)


def test_bytes_outside_a_small_vocabulary_are_refused():
    assert encode_text("[S1] abc", 64, vocab_size=128).max() == ord("c")
    with pytest.raises(InvalidTextError, match="byte 127, and the script has 'é', '漢'"):
        encode_text("[S1] 漢 caféé", 64, vocab_size=128)
    with pytest.raises(InvalidTextError, match="byte 97, and the script has 'b'"):
        encode_text("[S1] ab", 64, vocab_size=98)


def test_has_speaker_tag():
    assert has_speaker_tag("Well. [S2] Hi")
    assert not has_speaker_tag("Hi [S3] [s1]")


@given(st.text(st.characters(), max_size=60), st.integers(1, 60), st.sampled_from([128, 256]))
def test_any_text_is_encoded_whole_or_refused(text, max_bytes, vocab_size):
    try:
        tokens = encode_text(text, max_bytes, vocab_size)
    except InvalidTextError:
        return
    assert 0 < tokens.size <= max_bytes
    assert 0 < tokens.min() <= tokens.max() < vocab_size
    decoded = bytes(tokens.tolist()).replace(b"\1", b"[S1]").replace(b"\2", b"[S2]")
    assert decoded.decode() == text
