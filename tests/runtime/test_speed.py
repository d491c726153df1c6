import sys

import numpy as np
import pytest

from dia_ort.errors import InvalidConfigError
from dia_ort.narration import NarrationOptions
from dia_ort.speed import change_speed

RATE = 44_100


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 2])
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


@pytest.mark.parametrize("samples", [0, 1, 500])
def test_short_speech(samples):
    pytest.importorskip("av")
    changed = change_speed(np.zeros(samples, np.float32), RATE, 0.8)
    assert len(changed) == round(samples / 0.8)


def test_the_extra_is_named_if_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidConfigError, match=r"dia-ort\[speed\]"):
        NarrationOptions(speed=1.1)
    NarrationOptions(speed=1)


@pytest.mark.parametrize("speed", [0.4, 2.1, float("nan")])
def test_other_speeds_are_refused(speed):
    with pytest.raises(InvalidConfigError, match=r"0\.5"):
        NarrationOptions(speed=speed)


def test_the_end_is_kept():
    pytest.importorskip("av")
    samples = np.zeros(RATE, np.float32)
    samples[-RATE // 10 :] = 0.5 * np.sin(np.arange(RATE // 10) / 9)
    changed = change_speed(samples, RATE, 0.5)
    assert np.abs(changed[: int(1.7 * RATE)]).max() < 0.1
    assert np.abs(changed[int(1.85 * RATE) : int(1.95 * RATE)]).max() > 0.4
