"""Audio in memory and in files.

Samples are float32 from -1 to 1. soundfile and soxr are imported when they are first needed.
"""

import io
import os
import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from dia_ort.errors import AudioFileError, InvalidAudioError
from dia_ort.files import write_file

FinishReason = Literal["eos", "length"]
FilePath = str | os.PathLike[str]

_BLOCK_FRAMES = 1 << 16  # libsndfile's Vorbis encoder overflows the stack on one long write
_MIN_RATE, _MAX_RATE = 1_000, 768_000
_UNSCALED = 8  # a peak that no mastering reaches: integers that were only cast to floats
_LOUDNESS, _PEAK = 10 ** (-23 / 20), 10 ** (-1 / 20)

UNKNOWN_FRAMES = 1 << 40
"""More than this is libsndfile's way to say that a file does not tell its length."""

NO_LENGTH = "this recording does not say how long it is, as streams do not: save it again as WAV."


@dataclass(frozen=True, slots=True)
class _FileFormat:
    """A libsndfile container and encoding, and the only sample rates that it takes, if any."""

    container: str
    encoding: str
    rates: tuple[int, ...] = ()


_FORMATS = {
    "wav": _FileFormat("WAV", "PCM_16"),
    "flac": _FileFormat("FLAC", "PCM_16"),
    "ogg": _FileFormat("OGG", "VORBIS"),
    "opus": _FileFormat("OGG", "OPUS", (8_000, 12_000, 16_000, 24_000, 48_000)),
    "mp3": _FileFormat(
        "MP3",
        "MPEG_LAYER_III",
        (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    ),
}


AUDIO_FORMATS = tuple(_FORMATS)
"""The names that :func:`write_audio` knows."""


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """Generated speech.

    Attributes:
        samples: Mono, float32, shape ``(samples,)``.
        sample_rate: Samples per second.
        codes: The codec's codes that the samples were decoded from, shape ``(frames, channels)``.
        finish_reason: ``"eos"`` if the model ended the speech, ``"length"`` if it ran out of steps.
        seed: The seed that generates the same codes again.
        text: What was to be said.
        codec: Whose codes they are, as :attr:`dia_ort.manifest.Manifest.codec_id` has it.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    codes: NDArray[np.integer]
    finish_reason: FinishReason
    seed: int
    text: str = ""
    codec: str | None = None

    def __repr__(self) -> str:
        return (
            f"Audio({self.duration:.2f} s at {self.sample_rate} Hz, {len(self.codes)} frames, "
            f"{self.finish_reason!r}, seed={self.seed}, text={reprlib.repr(self.text)})"
        )

    @property
    def duration(self) -> float:
        """The length in seconds."""
        return len(self.samples) / self.sample_rate

    def save(self, file: FilePath | BinaryIO, format: str | None = None) -> None:  # noqa: A002
        """Write the samples to a file or a binary stream; see :func:`write_audio`."""
        write_audio(file, self.samples, self.sample_rate, format)


@dataclass(frozen=True, slots=True, eq=False)
class AudioChunk:
    """A piece of speech that is still being made.

    Attributes:
        samples: Mono, float32, shape ``(samples,)``; those of one chunk follow the last one's.
        sample_rate: Samples per second.
        index: Of the chunk, from 0.
        start: Of its first sample in the whole.
        is_last: Whether the speech ends with it. Speech of no frames is one empty chunk.
    """

    samples: NDArray[np.float32] = field(repr=False)
    sample_rate: int
    index: int
    start: int
    is_last: bool


def write_audio(
    file: FilePath | BinaryIO,
    samples: NDArray[Any],
    sample_rate: int,
    format: str | None = None,  # noqa: A002
) -> None:
    """Encode samples and write them to a file or a binary stream.

    A file appears under its name when it is complete: it is written beside it and renamed, and
    replaces a file of that name. WAV and FLAC hold 16 bits; samples beyond -1 and 1 are clipped.
    Opus and MP3 know certain rates only; others are resampled to 48 kHz.

    Args:
        file: A path, or a stream open for writing bytes (it need not seek).
        samples: Shape ``(samples,)`` or ``(samples, channels)``; floating point from -1 to 1, or
            int16 or int32 at full scale.
        sample_rate: Samples per second, 1,000 to 768,000.
        format: ``"wav"``, ``"flac"``, ``"ogg"`` (Vorbis), ``"opus"`` (in Ogg) or ``"mp3"``. By
            default the path's suffix, and ``"wav"`` for a stream.

    Raises:
        AudioFileError: The format is unknown, the path names no file, the stream takes no bytes,
            or the file cannot be written.
        InvalidAudioError: The samples or the rate are not as above, or not all finite.
    """
    if isinstance(file, str | os.PathLike):
        if os.path.basename(file) in {"", "."}:  # noqa: PTH119 - Path drops a slash at the end
            raise AudioFileError(
                f"cannot write {str(file)!r}: it names a folder; add a file's name"
            )
        path = Path(file)
        name = path.suffix if format is None else format
        _write_file(path, _encode(samples, sample_rate, _find_format(name, path)))
    elif isinstance(file, io.TextIOBase) or not hasattr(file, "write"):
        raise AudioFileError(
            f"cannot write to {type(file).__name__}: give a path, or a stream that takes bytes"
        )
    else:
        file.write(_encode(samples, sample_rate, _find_format(format or "wav", file)))


def read_audio(
    file: FilePath | BinaryIO, check: Callable[[float], None] | None = None
) -> tuple[NDArray[np.float32], int]:
    """Read an audio file in any format that libsndfile knows.

    Args:
        file: A path, or a seekable stream of bytes.
        check: Is given the length in seconds before anything is decoded; what it raises is left
            as it is.

    Returns:
        The samples, shape ``(samples, channels)``, and the sample rate.

    Raises:
        AudioFileError: The file is missing, unreadable, not audio, or does not tell its length.
    """
    import soundfile  # noqa: PLC0415

    with _open_stream(file) as stream:
        try:
            sound = soundfile.SoundFile(stream)
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name like a.raw
            raise _no_audio(file, error) from error
        with sound:
            if sound.frames > UNKNOWN_FRAMES:
                raise AudioFileError(f"cannot read {file}: {NO_LENGTH}")
            if check:
                check(sound.frames / sound.samplerate)
            try:
                return sound.read(dtype="float32", always_2d=True), sound.samplerate
            except soundfile.LibsndfileError as error:
                raise _no_audio(file, error) from error


def prepare_audio(samples: NDArray[Any], sample_rate: int, target_rate: int) -> NDArray[np.float32]:
    """Turn somebody's audio into what the codec's encoder reads: mono at its sample rate.

    Channels are averaged, and soxr resamples (quality HQ). The length is the caller's business.

    Args:
        samples: Shape ``(samples,)`` or ``(samples, channels)``; floating point from -1 to 1, or
            int16 or int32 at full scale.
        sample_rate: Of ``samples``, 1,000 to 768,000 Hz.
        target_rate: The rate that is wanted.

    Returns:
        Samples of shape ``(samples,)``.

    Raises:
        InvalidAudioError: The samples have another shape or type, are none, are not all finite,
            or are far beyond -1 to 1; or the rate is not such a number.
    """
    floats = _check_audio(samples, sample_rate)
    if (peak := np.abs(floats).max()) > _UNSCALED:
        raise InvalidAudioError(
            f"the samples reach {peak:g}, and floats go from -1 to 1: these look like int16 that "
            "were cast; give the integers as they are, or divide by 32768"
        )
    mono = floats if floats.ndim == 1 else floats.mean(axis=1)
    resampled = _resample(mono, sample_rate, target_rate)
    if not resampled.size:
        raise InvalidAudioError(
            f"{mono.size} samples at {sample_rate} Hz are too short to resample"
        )
    return resampled.astype(np.float32)


def normalize_loudness(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring speech to a common level by one gain: its RMS to -23 dBFS.

    Where the highest peak would then be over -1 dBFS, the gain is less and brings it there, so
    nothing clips. dBFS is relative to an amplitude of 1. Silence is returned as it is.

    Args:
        samples: Shape ``(samples,)``.
    """
    rms = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    if not rms:
        return samples
    gain = min(_LOUDNESS / rms, _PEAK / np.abs(samples).max())
    return samples * np.float32(gain)


def _check_audio(samples: NDArray[Any], sample_rate: int) -> NDArray[np.float64]:
    """Return the samples as floats, or say what is wrong with them or with the rate."""
    whole = isinstance(sample_rate, Integral) and not isinstance(sample_rate, bool)
    if not whole or not _MIN_RATE <= sample_rate <= _MAX_RATE:
        raise InvalidAudioError(
            f"sample_rate is {sample_rate!r}: give a whole number from {_MIN_RATE} to {_MAX_RATE}"
        )
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2):
        raise InvalidAudioError(
            f"the samples have shape {samples.shape}: give (samples,) or (samples, channels)"
        )
    if not samples.size:
        raise InvalidAudioError(f"the audio is empty: its shape is {samples.shape}")
    if samples.ndim == 2 and samples.shape[1] > samples.shape[0]:
        raise InvalidAudioError(
            f"the samples have shape {samples.shape}, more channels than samples: transpose them, "
            "channels come last"
        )
    floats = _to_float(samples)
    if not np.isfinite(floats).all():
        raise InvalidAudioError("some samples are NaN or infinite: repair or re-record the audio")
    return floats


def _to_float(samples: NDArray[Any]) -> NDArray[np.float64]:
    if samples.dtype in (np.int16, np.int32):
        return samples / -float(np.iinfo(samples.dtype).min)
    if not np.issubdtype(samples.dtype, np.floating):
        raise InvalidAudioError(
            f"the samples are {samples.dtype}: give floats from -1 to 1, or int16 or int32"
        )
    return samples.astype(np.float64)


def _resample(
    samples: NDArray[np.float64], sample_rate: int, target_rate: int
) -> NDArray[np.float64]:
    if sample_rate == target_rate:
        return samples
    import soxr  # noqa: PLC0415

    resampled: NDArray[np.float64] = soxr.resample(samples, sample_rate, target_rate, "HQ")
    return resampled


def _find_format(name: str, file: object) -> _FileFormat:
    try:
        return _FORMATS[name.lower().removeprefix(".")]
    except KeyError:
        suffixes = ", ".join(f".{known}" for known in _FORMATS)
        raise AudioFileError(
            f"cannot write {file}: '{name}' is not an audio format that dia_ort writes; end the "
            f"name in one of {suffixes}, or give the format"
        ) from None


def _encode(samples: NDArray[Any], sample_rate: int, file_format: _FileFormat) -> bytes:
    import soundfile  # noqa: PLC0415

    floats = _check_audio(samples, sample_rate)
    if file_format.rates and sample_rate not in file_format.rates:
        floats = _resample(floats, sample_rate, 48_000)
        sample_rate = 48_000
    clipped = floats.clip(-1, 1)
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(
            buffer,
            "w",
            samplerate=sample_rate,
            channels=1 if clipped.ndim == 1 else clipped.shape[1],
            format=file_format.container,
            subtype=file_format.encoding,
        ) as sound:
            for start in range(0, len(clipped), _BLOCK_FRAMES):
                sound.write(clipped[start : start + _BLOCK_FRAMES])
    except soundfile.LibsndfileError as error:
        raise AudioFileError(
            f"{file_format.encoding} cannot hold samples of shape {clipped.shape} at {sample_rate} "
            f"Hz ({error.error_string}): write WAV"
        ) from error
    return buffer.getvalue()


def _no_audio(file: FilePath | BinaryIO, error: Exception) -> AudioFileError:
    """What to say of a file that libsndfile does not read."""
    import soundfile  # noqa: PLC0415

    known = ", ".join(sorted(soundfile.available_formats()))
    reason = getattr(error, "error_string", "it has no header")
    return AudioFileError(
        f"cannot read {file} as audio ({reason}): convert it to WAV or FLAC; known formats are "
        f"{known}"
    )


@contextmanager
def _open_stream(file: FilePath | BinaryIO) -> Iterator[BinaryIO]:
    """A seekable stream of a file's bytes, or the one that is given."""
    if not isinstance(file, str | os.PathLike):
        if not hasattr(file, "read"):
            raise AudioFileError(
                f"cannot read {type(file).__name__} as audio: give a path, or a stream of bytes "
                "(io.BytesIO(...) makes one of bytes)"
            )
        yield file
        return
    try:
        opened = Path(file).open("rb")  # noqa: SIM115 - closed below; what is done with it may raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise AudioFileError(f"cannot read the audio file {file}: {reason}") from error
    with opened:
        yield opened if opened.seekable() else io.BytesIO(opened.read())


def _write_file(path: Path, content: bytes) -> None:
    try:
        write_file(path, content)
    except (OSError, ValueError) as error:  # as above
        reason = error.strerror if isinstance(error, OSError) else error
        missing = "" if path.parent.exists() else f": make the folder {path.parent} first"
        raise AudioFileError(f"cannot write {path} ({reason}){missing}") from error
