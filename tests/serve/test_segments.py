import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_ort.script import WORD
from dia_ort.serve.segments import Segmenter

LONG = "This sentence takes more than five seconds to say aloud, as it is a rather long one. "


def test_sentences_wait_until_they_are_long_enough_and_over():
    segmenter = Segmenter()
    segmenter.push("Yes. No. ")
    assert segmenter.take() is None
    segmenter.push(LONG.rstrip())
    assert segmenter.take() is None  # it may go on: "long.html"
    segmenter.push(" And")
    assert segmenter.take() == "Yes. No. " + LONG.rstrip()
    assert segmenter.take() is None
    assert segmenter.take_all() == "And"
    assert segmenter.take_all() is None


@pytest.mark.parametrize("end", ["\n", " [S2]"])
def test_lines_and_turns_end_sentences_too(end):
    segmenter = Segmenter()
    segmenter.push(LONG.rstrip(". ") + end)
    assert segmenter.take() == LONG.rstrip(". ")


def test_a_speaker_goes_on_whose_tag_only_people_can_read():
    segmenter = Segmenter()
    segmenter.push(f"[S1] Hi. [s 2] {LONG}Ho.")
    assert segmenter.take() == f"[S1] Hi. [s 2] {LONG.rstrip()}"
    assert segmenter.take_all() == "[s 2] Ho."


def test_what_never_ends_is_cut_after_a_clause():
    segmenter = Segmenter()
    segmenter.push("and so on, " * 27)
    assert segmenter.take() is None
    segmenter.push("and so on, ")
    assert segmenter.take() == ("and so on, " * 7).strip()


def test_a_short_sentence_before_it_does_not_keep_it_from_being_cut():
    segmenter = Segmenter()
    segmenter.push("Hi. " + "and so on, " * 27)
    assert segmenter.take() == ("Hi. " + "and so on, " * 7).strip()


def test_white_space_takes_no_time_to_say():
    segmenter = Segmenter()
    segmenter.push("Yes. " + " " * 500 + "No. ")
    assert segmenter.take() is None


@pytest.mark.parametrize("text", [" " * 19_900, "[S1]" * 4960, "\n " * 9900, "a" * 19_900])
def test_what_waits_is_not_read_again_and_again(text):
    segmenter = Segmenter()
    segmenter.push(text)
    begun = time.process_time()
    for _ in range(100):
        segmenter.push(" ")
        assert segmenter.take() is None or text[0] == "a"
    assert time.process_time() - begun < 2  # it took 100


def test_abbreviations_end_none():
    segmenter = Segmenter()
    segmenter.push(LONG.rstrip(". ") + " to Dr. Who")
    assert segmenter.take() is None


def test_the_speaker_goes_on():
    segmenter = Segmenter()
    segmenter.push(f"[S1] Yes. [S2] {LONG}{LONG}[S1] {LONG}Yes.")
    assert segmenter.take() == f"[S1] Yes. [S2] {LONG.rstrip()}"
    assert segmenter.take() == f"[S2] {LONG.rstrip()}"
    assert segmenter.take() == f"[S1] {LONG.rstrip()}"
    assert segmenter.take_all() == "[S1] Yes."


def test_signs_and_emoji_alone_are_nothing_to_say():
    segmenter = Segmenter()
    segmenter.push(f"{'-' * 200}\n{'🙂 ' * 100}\n")
    assert segmenter.take() is None
    assert segmenter.take_all() is None
    segmenter.push("[pause 1s]")
    assert segmenter.take_all().endswith("[pause 1s]")


def test_tags_alone_are_nothing_to_say():
    segmenter = Segmenter()
    segmenter.push(" [S2] \n ")
    assert segmenter.take_all() is None
    segmenter.push("Yes.")
    assert segmenter.take_all() == "[S2] \n Yes."


@given(
    st.lists(st.sampled_from(["Yes. ", "no", LONG, "[S1] ", "[S2]", "\n", "Dr. ", "! ", "..."])),
    st.integers(1, 50),
)
def test_no_word_is_lost_however_it_comes(parts, size):
    text = "".join(parts)
    segmenter, scripts = Segmenter(), []
    for start in range(0, len(text), size):
        segmenter.push(text[start : start + size])
        while (script := segmenter.take()) is not None:
            scripts.append(script)
    if (script := segmenter.take_all()) is not None:
        scripts.append(script)

    def words(script):
        return "".join(script.replace("[S1]", "").replace("[S2]", "").split())

    said = words(" ".join(scripts))
    assert words(text).startswith(said)
    assert not WORD.search(words(text)[len(said) :])
