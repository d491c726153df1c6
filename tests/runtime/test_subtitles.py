import itertools

import numpy as np

from dia_ort.narration import Attempt, NarratedChunk
from dia_ort.subtitles import Cue, make_cues, to_srt, to_vtt


def chunk(start, end, text):
    attempt = Attempt(1, end - start, "eos", None)
    return NarratedChunk(
        index=0,
        text=text,
        speakers=("S1",),
        start=start,
        end=end,
        samples=np.empty(0, np.float32),
        attempts=(attempt,),
        taken=0,
    )


CUES = [
    Cue(0, 1.5, "S1", "Fish & chips <now>?"),
    Cue(3661.0004, 3662.9996, "S2", "An arrow --> and\ntwo lines"),
]


def test_srt():
    assert to_srt(CUES) == (
        "1\n00:00:00,000 --> 00:00:01,500\nFish & chips <now>?\n\n"
        "2\n01:01:01,000 --> 01:01:03,000\nAn arrow -> and\ntwo lines\n\n"
    )


def test_vtt():
    assert to_vtt(CUES) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nFish &amp; chips &lt;now&gt;?\n\n"
        "01:01:01.000 --> 01:01:03.000\nAn arrow --&gt; and\ntwo lines\n\n"
    )


def test_names():
    names = {"S1": "Ann <A>"}
    assert "\nAnn <A>: Fish" in to_srt(CUES, names)
    assert "\n<v Ann &lt;A&gt;>Fish" in to_vtt(CUES, names)
    assert "\nAn arrow" in to_srt(CUES, names)


def test_cues_share_a_chunks_time_by_characters():
    cues = list(make_cues([chunk(1, 3, "[S1] Hello you. [S2] Hello you. [S1]")]))
    assert cues == [Cue(1, 2, "S1", "Hello you."), Cue(2, 3, "S2", "Hello you.")]


def test_cues_have_two_lines_at_most():
    words = " ".join(f"word{number}" for number in range(60))
    cues = list(make_cues([chunk(0, 20, f"[S2] {words}")]))
    assert " ".join(cue.text.replace("\n", " ") for cue in cues) == words
    assert all(len(line) <= 42 for cue in cues for line in cue.text.split("\n"))
    assert all(cue.text.count("\n") <= 1 for cue in cues)


def test_cues_do_not_overlap():
    """Chunks do, by their crossfades."""
    chunks = [chunk(0, 2.03, "[S1] One."), chunk(2, 3, "[S1] Two. [S2]"), chunk(3, 3, "[S1] Hm.")]
    cues = list(make_cues(chunks))
    assert [cue.text for cue in cues] == ["One.", "Two."]
    assert all(a.end <= b.start for a, b in itertools.pairwise(cues))
    assert to_srt(cues).count("-->") == 2
