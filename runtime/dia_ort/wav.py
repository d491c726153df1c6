"""WAV that is written while it is made."""

import struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_UNKNOWN = 0xFFFFFFFF
"""A size that stands for the end of the stream; players and ffmpeg take it so."""
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_SAMPLE_BYTES = 2


class WavWriter:
    """Writes mono WAV of 16 bits, piece by piece, and each is there at once.

    Args:
        file: Open for writing bytes, at its beginning.
        sample_rate: In hertz.
        update: Put the length into the header after every piece, so that the file is a whole WAV
            from the first one on; the file must seek. Else the header says that it is unknown.
    """

    def __init__(self, file: BinaryIO, sample_rate: int, *, update: bool) -> None:
        self._file = file
        self._sample_rate = sample_rate
        self._update = update
        self._size = 0
        file.write(self._header(0 if update else _UNKNOWN))

    def write(self, samples: NDArray[np.float32]) -> None:
        """Write samples, (samples,), from -1 to 1; what is beyond is clipped."""
        full = np.rint(samples * np.float64(2**31)).clip(-(2**31), 2**31 - 1).astype(np.int64)
        pcm = (full >> 16).astype("<i2").tobytes()  # rounded down, as in libsndfile
        self._size += len(pcm)
        self._file.write(pcm)
        self._file.flush()  # before the header says so
        if self._update:
            self._file.seek(0)
            self._file.write(self._header(self._size))
            self._file.seek(0, 2)
            self._file.flush()

    def _header(self, size: int) -> bytes:
        rate = self._sample_rate
        return _HEADER.pack(
            *(b"RIFF", min(size + _HEADER.size - 8, _UNKNOWN), b"WAVE"),
            *(b"fmt ", 16, 1, 1, rate, rate * _SAMPLE_BYTES, _SAMPLE_BYTES, 8 * _SAMPLE_BYTES),
            *(b"data", min(size, _UNKNOWN)),
        )
