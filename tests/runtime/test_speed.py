import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_ort.errors import InvalidConfigError
from dia_ort.narration import NarrationOptions
from dia_ort.speed import SpeedChanger, change_speed

RATE = 44_100
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE).astype(np.float32)


@pytest.mark.parametrize("speed", [0.25, 0.3, 0.5, 0.8, 1.25, 2, 2.5, 4])
def test_pitch_stays_and_duration_follows(speed):
    pytest.importorskip("av")
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE)).astype(np.float32)
    changed = change_speed(tone, RATE, speed)
    assert changed.dtype == np.float32
    assert len(changed) == round(len(tone) / speed)
    spectrum = np.abs(np.fft.rfft(changed * np.hanning(len(changed))))
    assert spectrum.argmax() * RATE / len(changed) == pytest.approx(440, abs=1)
    assert np.abs(changed).max() < 0.6


def test_speed_1_changes_nothing():
    samples = np.ones(100, np.float32)
    assert change_speed(samples, RATE, 1) is samples
    changer = SpeedChanger(RATE, 1)
    assert changer.push(samples) is samples
    assert not len(changer.finish())


@pytest.mark.parametrize("speed", [0.25, 0.8, 3.7])
@pytest.mark.parametrize("samples", [0, 1, 500])
def test_short_speech(samples, speed):
    pytest.importorskip("av")
    changed = change_speed(np.zeros(samples, np.float32), RATE, speed)
    assert changed.dtype == np.float32
    assert len(changed) == round(samples / speed)


@given(
    speed=st.floats(0.25, 4),
    samples=st.integers(0, 20_000),
    cuts=st.lists(st.integers(0, 20_000), max_size=10),
)
@settings(max_examples=30, deadline=None)
def test_pieces_become_what_the_whole_does(speed, samples, cuts):
    pytest.importorskip("av")
    changer = SpeedChanger(RATE, speed)
    pieces = [changer.push(piece) for piece in np.split(NOISE[:samples], sorted(cuts))]
    changed = np.concatenate([*pieces, changer.finish()])
    assert len(changed) == round(samples / speed)
    assert np.array_equal(changed, change_speed(NOISE[:samples], RATE, speed))


@pytest.mark.parametrize(
    ("speed", "lag"), [(0.25, 0.25), (0.45, 0.25), (0.5, 0.1), (1.3, 0.1), (2, 0.1), (4, 0.25)]
)
def test_pieces_come_out_at_once(speed, lag):
    pytest.importorskip("av")
    changer, pushed, given_back = SpeedChanger(RATE, speed), 0, 0
    for piece in np.split(NOISE, np.cumsum([2048, 4096, 8192, 16384, 30000])):
        pushed += len(piece)
        given_back += len(changer.push(piece))
        assert (pushed - given_back * speed) / RATE < lag


def test_the_extra_is_named_if_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidConfigError, match=r"dia-ort\[speed\]"):
        NarrationOptions(speed=1.1)
    NarrationOptions(speed=1)


@pytest.mark.parametrize("speed", [0.24, 4.1, 0, -1, float("nan")])
def test_other_speeds_are_refused(speed):
    with pytest.raises(InvalidConfigError, match=r"0\.25"):
        NarrationOptions(speed=speed)


def test_the_end_is_kept():
    pytest.importorskip("av")
    samples = np.zeros(RATE, np.float32)
    samples[-RATE // 10 :] = 0.5 * np.sin(np.arange(RATE // 10) / 9)
    changed = change_speed(samples, RATE, 0.5)
    assert np.abs(changed[: int(1.7 * RATE)]).max() < 0.1
    assert np.abs(changed[int(1.85 * RATE) : int(1.95 * RATE)]).max() > 0.4


@pytest.mark.parametrize("speed", [2.5, 3])
def test_short_sounds_are_heard_in_fast_speech(speed):
    """One filter alone would leave many of them out."""
    pytest.importorskip("av")
    clicks, length = 20, RATE // 100
    samples = np.zeros(clicks * 7000, np.float32)
    for start in range(3000, len(samples), 7000):
        samples[start : start + length] = NOISE[:length]
    changed = change_speed(samples, RATE, speed)
    heard = [np.abs(part).max() > 0.2 for part in np.array_split(changed, clicks)]
    assert sum(heard) > 0.8 * clicks
