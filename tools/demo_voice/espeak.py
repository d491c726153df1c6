"""espeak-ng as a library: speech, and when each word begins.

The structures and numbers are those of ``espeak-ng/speak_lib.h``.
"""

import ctypes
from dataclasses import dataclass
from functools import cache

import numpy as np
import soxr
from numpy.typing import NDArray

SAMPLE_RATE = 44100

_LIBRARY = "libespeak-ng.so.1"
_RETRIEVAL = 1  # AUDIO_OUTPUT_RETRIEVAL: samples go to the callback
_BUFFER_MS = 200
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_WORD = 1
_SILENT = 0.004  # amplitude
_BEFORE, _AFTER = 0.02, 0.09  # seconds of near silence that stay around a sentence


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True, slots=True)
class SpeakerSettings:
    """How espeak-ng plays a speaker.

    Attributes:
        voice: Its name of the voice, with the variant.
        rate: Words a minute.
        pitch: 0 to 100; 50 is the variant's own.
        pitch_range: 0 (monotonous) to 100; 50 is the variant's own.
        gain: Of the amplitude.
    """

    voice: bytes
    rate: int
    pitch: int
    pitch_range: int
    gain: float


SPEAKERS = {
    1: SpeakerSettings(b"en-us+m3", rate=140, pitch=62, pitch_range=25, gain=1.0),
    2: SpeakerSettings(b"en-us+f1", rate=140, pitch=60, pitch_range=25, gain=0.75),
}


@dataclass(frozen=True, slots=True)
class Spoken:
    """A sentence as it was spoken.

    Attributes:
        samples: float32, (samples,), mono at `SAMPLE_RATE`.
        starts: When each word begins, in seconds.
    """

    samples: NDArray[np.float32]
    starts: tuple[float, ...]


class Espeak:
    """The library. `espeak` has the one that a process can have.

    Raises:
        OSError: It is not installed (Debian: ``apt install espeak-ng``).
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(_LIBRARY)
        self._pieces: list[NDArray[np.int16]] = []
        self._starts: dict[int, int] = {}  # sample by position of the word's first letter
        self._callback = _Callback(self._take)  # kept: the library has no reference that counts
        self._rate = self._library.espeak_Initialize(_RETRIEVAL, _BUFFER_MS, None, 0)
        self._speaker = 0
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, speaker: int, words: tuple[str, ...]) -> Spoken:
        """Say words in one breath."""
        self._choose(speaker)
        self._pieces.clear()
        self._starts.clear()
        text = " ".join(words)
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._pieces).astype(np.float32) / 32768 * SPEAKERS[speaker].gain
        sounding = np.flatnonzero(np.abs(samples) > _SILENT)
        first = max(0, sounding[0] - round(_BEFORE * self._rate))
        last = sounding[-1] + round(_AFTER * self._rate)
        # espeak-ng says "no one" as one word, and when that begins: the letters tell the rest.
        positions = np.cumsum([0, *(len(word) + 1 for word in words)])
        known = [*sorted(self._starts), len(text) + 1]
        times = [*(self._starts[position] for position in known[:-1]), int(sounding[-1])]
        starts = np.interp(positions[:-1], known, times)
        samples = np.pad(samples, (0, max(0, last - len(samples))))[first:last]
        return Spoken(
            soxr.resample(samples, self._rate, SAMPLE_RATE),
            tuple(float(start) for start in np.maximum(0, starts - first) / self._rate),
        )

    def _choose(self, speaker: int) -> None:
        if speaker == self._speaker:  # choosing a voice takes longer than a sentence
            return
        settings = SPEAKERS[speaker]
        self._library.espeak_SetVoiceByName(settings.voice)
        for parameter, value in (
            (_RATE, settings.rate),
            (_PITCH, settings.pitch),
            (_RANGE, settings.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._speaker = speaker

    def _take(self, wave: "ctypes._Pointer[ctypes.c_short]", count: int, events: object) -> int:
        if count > 0:
            self._pieces.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events[index].type:  # type: ignore[index]
            event = events[index]  # type: ignore[index]
            if event.type == _WORD and event.length:  # a sentence's end is a word of no letters
                self._starts[event.text_position - 1] = event.sample
            index += 1
        return 0


@cache
def espeak() -> Espeak:
    """The library, opened once: a second time it would wait for ever."""
    return Espeak()
