"""tools/demo_voice: the judge of the demonstration model, on sounds that are made up."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

from demo_voice.acoustics import align, features, pitch  # noqa: E402
from demo_voice.clips import HOP_LENGTH, Clip, Clips  # noqa: E402
from demo_voice.evaluation import Score, is_speaker, summarize, table  # noqa: E402
from demo_voice.recogniser import Recogniser, word_errors  # noqa: E402
from demo_voice.vocabulary import Sentence  # noqa: E402

RATE = 44_100
WORDS = ("one", "two", "three", "four")
FRAMES = 24


def sound(word, frames=FRAMES):
    """A word: two tones, one after the other."""
    time = np.arange(frames * HOP_LENGTH) / RATE
    low, high = 300 * (2 + WORDS.index(word)), 450 * (6 - WORDS.index(word))
    half = len(time) // 2
    frequency = np.where(np.arange(len(time)) < half, low, high)
    return (0.3 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def silence(frames=10):
    return np.zeros(frames * HOP_LENGTH, np.float32)


@pytest.fixture(scope="module")
def recogniser():
    """Knows each word from two sentences of two words."""
    clips, samples = [], []
    for number, words in enumerate([("one", "two"), ("three", "four"), ("two", "three")] * 2):
        clips.append(Clip(Sentence(1, words), (0.0, FRAMES), number * 2 * FRAMES, 2 * FRAMES))
        samples += [sound(word) for word in words]
    return Recogniser(Clips(tuple(clips), (np.concatenate(samples) * 32767).astype(np.int16)))


@pytest.mark.parametrize("said", [*itertools.product(WORDS, repeat=2), ("four", "one", "four")])
def test_words_are_heard_in_any_order(recogniser, said):
    assert recogniser.words(np.concatenate([sound(word) for word in said])) == said


@pytest.mark.parametrize("frames", [16, 20, 32, 40])
def test_words_are_heard_slow_and_fast(recogniser, frames):
    said = ("two", "one", "three")
    assert recogniser.words(np.concatenate([sound(word, frames) for word in said])) == said


def test_words_are_heard_between_silences(recogniser):
    parts = [silence(), sound("four"), silence(40), sound("two"), silence()]
    assert recogniser.words(np.concatenate(parts)) == ("four", "two")
    assert recogniser.words(silence(60)) == ()


def brute_errors(said, heard):
    if not said or not heard:
        return len(said) + len(heard)
    return min(
        brute_errors(said[1:], heard[1:]) + (said[0] != heard[0]),
        brute_errors(said[1:], heard) + 1,
        brute_errors(said, heard[1:]) + 1,
    )


def test_word_errors_are_the_edit_distance():
    random = np.random.default_rng(0)
    for _ in range(50):
        said, heard = (tuple(random.choice(WORDS, random.integers(0, 5))) for _ in range(2))
        assert word_errors(said, heard) == brute_errors(said, heard)


def brute_alignment(distance):
    total = np.full(distance.shape, np.inf)
    for i, j in np.ndindex(distance.shape):
        before = [total[i - a, j - b] for a, b in ((1, 1), (1, 0), (0, 1)) if i >= a and j >= b]
        total[i, j] = distance[i, j] + (min(before) if before else 0)
    return total[-1, -1]


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 7), (9, 4), (12, 15)])
def test_the_alignment_is_the_cheapest(m, n):
    random = np.random.default_rng(m)
    first, second = random.normal(size=(m, 3)), random.normal(size=(n, 3))
    cost, path = align(first, second)
    distance = np.abs(first[:, None] - second).mean(2)
    assert cost * (m + n) == pytest.approx(brute_alignment(distance))
    assert distance[path[:, 0], path[:, 1]].sum() == pytest.approx(cost * (m + n))
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [m - 1, n - 1]
    assert {tuple(step) for step in np.diff(path, axis=0)} <= {(1, 1), (1, 0), (0, 1)}


@pytest.mark.parametrize("hertz", [85, 110, 180, 300])
def test_pitch_of_pulses(hertz):
    samples = np.zeros(RATE, np.float32)
    samples[:: RATE // hertz] = 1
    voice = np.convolve(samples, np.hanning(120), "same").astype(np.float32)
    assert pitch(voice) == pytest.approx(hertz, rel=0.02)
    assert np.isnan(pitch(np.random.default_rng(0).normal(size=RATE).astype(np.float32)))
    assert np.isnan(pitch(silence()))


def test_a_silent_turn_is_no_speakers():
    heights = (90, 220, np.nan)
    assert [is_speaker(1, height, 140) for height in heights] == [True, False, False]
    assert [is_speaker(2, height, 140) for height in heights] == [False, True, False]


def test_features_of_nothing_are_one_frame():
    assert features(np.zeros(0, np.float32)).shape == (1, 40)
    assert len(features(silence(100))) == 99


def test_a_row_sums_up_its_scripts():
    right = Score("[S1] one two.", "one two", 2, 0, True, True, 1, 1, 1.0)
    wrong = Score("[S2] one two three.", "one", 3, 2, False, False, 0, 1, 0.4)
    row = summarize([right, right, right, wrong])
    assert (row["word_errors"], row["words"], row["nearest"], row["ended"]) == (2, 9, 3, 3)
    assert row["word_error_rate"] == pytest.approx(2 / 9)
    assert row["word_error_rate_low"] == 0
    assert row["word_error_rate_high"] > 0.3
    assert row["duration"] == 1.0
    assert "| some | 22.2% (0.0% to " in table({"some": [right, right, right, wrong]})
