"""Silences and odd lengths, in audio that is made up."""

import numpy as np
import pytest

from dia_ort.ends import find_fault, find_silences, shorten_silences, sounding_seconds

RATE = 8000


def tone(seconds, level=0.3, frequency=200):
    times = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def noise(seconds, level):
    random = np.random.default_rng(1)
    return random.normal(0, level, round(seconds * RATE)).astype(np.float32)


def silence(seconds):
    return np.zeros(round(seconds * RATE), np.float32)


def click(seconds):
    """Silence with a click in its middle."""
    samples = silence(seconds)
    samples[len(samples) // 2] = 1
    return samples


def joined(*pieces):
    return np.concatenate(pieces)


def seconds_of_silences(samples):
    return [
        (round(start / RATE, 2), round(stop / RATE, 2))
        for start, stop in find_silences(samples, RATE)
    ]


SPEECH = joined(tone(1), silence(2), tone(0.5), silence(1.5))


class TestFindSilences:
    def test_within_and_at_the_ends(self):
        samples = joined(silence(0.5), SPEECH)
        assert seconds_of_silences(samples) == [(0, 0.5), (1.5, 3.5), (4, 5.5)]

    def test_quiet_noise_is_silence(self):
        assert seconds_of_silences(SPEECH + noise(5, 0.001)) == [(1, 3), (3.5, 5)]

    def test_an_offset_is_no_sound(self):
        assert seconds_of_silences(SPEECH + np.float32(0.4)) == [(1, 3), (3.5, 5)]

    def test_clicks_are_no_sound(self):
        assert seconds_of_silences(joined(tone(1), click(1), tone(1))) == [(1, 2)]

    def test_quiet_speech_is_sound(self):
        assert seconds_of_silences(joined(tone(1, 0.01), silence(1))) == [(1, 2)]
        assert seconds_of_silences(joined(tone(1, 0.5), tone(1, 0.02))) == []

    def test_rare_speech_is_sound(self):
        assert seconds_of_silences(joined(silence(30), tone(0.2), silence(3))) == [
            (0, 30),
            (30.2, 33.2),
        ]

    def test_noise_alone_is_no_silence(self):
        assert find_silences(noise(1, 0.1), RATE) == []

    @pytest.mark.parametrize("samples", [silence(1), silence(0.0301), click(0.5)])
    def test_nothing_but_silence(self, samples):
        assert find_silences(samples, RATE) == [(0, len(samples))]

    def test_no_samples(self):
        assert find_silences(silence(0), RATE) == []

    def test_the_rest_is_sound(self):
        assert sounding_seconds(SPEECH, RATE) == pytest.approx(1.5)


class TestShortenSilences:
    @pytest.mark.parametrize("limit", [0, 0.3, 1])
    def test_to_the_limit(self, limit):
        samples = shorten_silences(joined(silence(1.2), SPEECH), RATE, limit)
        assert len(samples) / RATE == pytest.approx(1.5 + 3 * limit, abs=0.02)
        assert all(stop - start <= limit * RATE for start, stop in find_silences(samples, RATE))

    def test_shorter_ones_stay(self):
        assert np.array_equal(shorten_silences(SPEECH, RATE, 2), SPEECH)

    def test_only_silence_is_lost(self):
        samples = shorten_silences(SPEECH, RATE, 0.2)
        assert np.array_equal(samples[:RATE], SPEECH[:RATE])
        assert sounding_seconds(samples, RATE) == pytest.approx(1.5, abs=0.02)  # windows

    def test_no_clicks_where_it_is_cut(self):
        samples = joined(tone(1), silence(1) + np.float32(0.02), tone(1))
        cut = shorten_silences(samples, RATE, 0.2)
        assert np.abs(np.diff(cut)).max() <= np.abs(np.diff(samples)).max() + 1e-6

    @pytest.mark.parametrize("samples", [silence(0), silence(1)])
    def test_nothing_but_silence(self, samples):
        assert len(shorten_silences(samples, RATE, 0.25)) == min(len(samples), RATE // 4)


class TestFindFault:
    def test_what_is_about_as_long_as_its_text_is_good(self):
        for seconds in (1.5, 5, 15):
            assert find_fault(tone(seconds), RATE, "eos", 5) is None

    def test_at_the_limit_of_steps(self):
        assert "most decoder steps" in find_fault(tone(5), RATE, "length", 5)

    def test_far_longer(self):
        assert find_fault(tone(17), RATE, "eos", 5) == "it lasts 17.0 s, and its text about 5.0 s"

    def test_a_long_gap_makes_it_longer(self):
        assert "lasts" in find_fault(joined(tone(2), silence(15)), RATE, "eos", 5)

    def test_far_shorter(self):
        assert "1.0 s of sound" in find_fault(tone(1), RATE, "eos", 5)

    def test_silence_is_no_speech(self):
        samples = joined(tone(1), silence(3))
        assert "1.0 s of sound" in find_fault(samples, RATE, "eos", 5)

    @pytest.mark.parametrize("seconds", [0.2, 0.6, 2.5])
    def test_short_texts_vary(self, seconds):
        assert find_fault(tone(seconds), RATE, "eos", 0.6) is None

    def test_but_not_that_much(self):
        assert "0.1 s of sound" in find_fault(tone(0.1), RATE, "eos", 0.8)

    @pytest.mark.parametrize("samples", [silence(0), silence(0.5), click(0.5)])
    def test_no_sound_at_all(self, samples):
        assert find_fault(samples, RATE, "eos", 0.5) == "it is silent"
