"""Where the speech goes: checked before minutes of work, and kept if saving fails after them."""

import contextlib
import io
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dia_ort.audio import write_audio
from dia_ort.errors import AudioFileError, DiaError, InvalidConfigError
from dia_ort.files import check_folder
from dia_ort.wav import WavWriter

STDOUT = "-"


class AudioFormat(StrEnum):
    """The formats that :func:`dia_ort.audio.write_audio` knows."""

    WAV = "wav"
    FLAC = "flac"
    OGG = "ogg"
    OPUS = "opus"
    MP3 = "mp3"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the speech goes, and how it is encoded.

    Attributes:
        output: A path, ``"-"`` for stdout, or None for the first free default name.
        format: The audio format.
        stream: Whether it is written while it is spoken.
    """

    output: str | None
    format: AudioFormat
    stream: bool = False

    @property
    def path(self) -> Path:
        """Where it goes, by a name that is free now if none is given; not for stdout."""
        return _free_name(self.format) if self.output is None else Path(self.output)

    def save(self, samples: NDArray[np.float32], sample_rate: int) -> str:
        """Write the speech; returns where it is.

        Raises:
            BrokenPipeError: Nobody reads stdout any more.
            AudioFileError: It could not be written; the message says where it was put instead.
        """
        try:
            if self.output == STDOUT:
                write_audio(sys.stdout.buffer, samples, sample_rate, self.format)
                sys.stdout.buffer.flush()
                return "stdout"
            path = self.path
            write_audio(path, samples, sample_rate, self.format)
        except BrokenPipeError:
            raise
        except AudioFileError as error:
            raise AudioFileError(f"{error}. {_rescue(samples, sample_rate)}") from error
        except OSError as error:
            raise AudioFileError(
                f"cannot write to stdout ({error.strerror}). {_rescue(samples, sample_rate)}"
            ) from error
        return str(path)

    @contextmanager
    def open(self, sample_rate: int) -> Iterator[tuple[str, WavWriter]]:
        """Where the speech is, and what writes it there while it is spoken.

        A file stands under its name from the start, and is a whole WAV after every piece. A pipe
        is not told the length, nor is stdout, which may be another's file too.

        Raises:
            BrokenPipeError: Nobody reads it any more.
            AudioFileError: It cannot be written, or no further.
        """
        place = "stdout" if self.output == STDOUT else str(self.path)
        try:
            if self.output == STDOUT:
                yield place, WavWriter(sys.stdout.buffer, sample_rate, update=False)
            else:
                with Path(place).open("wb") as file:
                    yield place, WavWriter(file, sample_rate, update=file.seekable())
        except (DiaError, BrokenPipeError):
            raise
        except OSError as error:
            raise AudioFileError(
                f"cannot write {place} ({error.strerror}): the speech ends there."
            ) from error


def find_target(
    output: str | None, audio_format: AudioFormat | None, *, stream: bool = False
) -> Target:
    """Where to write, after a check that it can be written and encoded.

    Raises:
        InvalidConfigError: The suffix tells no format, the format cannot be streamed, or stdout is
            a terminal.
        DiaError: The place is not writable, or libsndfile cannot write the format.
    """
    target = Target(output, audio_format or _format_of(output), stream)
    if stream and target.format != AudioFormat.WAV:
        raise InvalidConfigError(
            f"--stream writes wav, and not {target.format} so far: end the name in .wav, or leave "
            "out --stream."
        )
    if output == STDOUT:
        if sys.stdout.isatty():
            raise InvalidConfigError(
                "stdout is a terminal, and audio is not for reading: pipe it into a player or a "
                "file, or give a name with -o."
            )
    else:
        check_place(target.path, "-o", replace=not stream)
    _check_encoder(target.format)
    return target


def _format_of(output: str | None) -> AudioFormat:
    return AudioFormat.WAV if output is None or output == STDOUT else find_format(output)


def find_format(output: str) -> AudioFormat:
    """The format that a name's suffix tells.

    Raises:
        InvalidConfigError: It tells none.
    """
    name = output.replace(os.sep, "/").rpartition("/")[2]  # of a folder, nothing
    try:
        return AudioFormat(Path(name).suffix.lower().removeprefix("."))
    except ValueError:
        suffixes = ", ".join(f".{known}" for known in AudioFormat)
        raise InvalidConfigError(
            f"the output {output!r} tells no audio format: end it in one of {suffixes}, or give "
            "--format."
        ) from None


def check_place(path: Path, option: str, *, replace: bool = True) -> None:
    """Try what saving will do: a new file beside the target, which links may have moved.

    Args:
        path: To be written.
        option: That gives it.
        replace: Whether a file that is there is replaced, or written to.

    Raises:
        DiaError: It cannot be written.
    """
    try:
        target = path.resolve()
        with contextlib.suppress(FileNotFoundError):
            target.stat()  # from Python 3.14 on, exists() does not tell that a name is too long
        if target.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if not target.exists() or (replace and target.is_file()):
            check_folder(target.parent)
        elif not os.access(target, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        missing = isinstance(error, FileNotFoundError)
        remedy = f"make the folder {path.parent} first, or " if missing else ""
        raise DiaError(
            f"cannot write {path} ({reason}): {remedy}give another name or folder with {option}."
        ) from error


def check_apart(read: dict[str, str | None], written: dict[str, Path | None]) -> None:
    """Refuse to write one file twice, or over one that is read.

    Args:
        read: By option; None: it is not given. ``-`` is no file.
        written: Likewise.

    Raises:
        InvalidConfigError: Two options name the same file.
    """
    inputs = {option: Path(name) for option, name in read.items() if name and name != STDOUT}
    names = list(inputs.items())
    for option, path in written.items():
        if path is None or (path.exists() and not path.is_file()):  # /dev/null takes everything
            continue
        for other, taken in names:
            if _is_same(path, taken):
                raise InvalidConfigError(
                    f"{other} and {option} both name {path}, which would be lost: give another "
                    f"name with {option}."
                )
        names.append((option, path))


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths are one file's, in a folder that may not tell a from A."""
    try:
        return path.resolve() == other.resolve() or path.samefile(other)
    except (OSError, ValueError):  # one is not there, or is no path, which reading it will say
        return path == other


def _check_encoder(audio_format: AudioFormat) -> None:
    try:
        write_audio(io.BytesIO(), np.zeros(1024, np.float32), 44_100, audio_format)
    except (ImportError, OSError) as error:
        raise AudioFileError(
            f"cannot write {audio_format} here: {error}. `dia-ort doctor` says what is missing."
        ) from error


def _free_name(audio_format: AudioFormat) -> Path:
    names = (f"speech-{n}" if n else "speech" for n in itertools.count())
    paths = (Path(f"{name}.{audio_format}") for name in names)
    return next(path for path in paths if not path.exists())


def _rescue(samples: NDArray[np.float32], sample_rate: int) -> str:
    """Keep the speech in the folder for temporary files, and say so."""
    try:
        handle, name = tempfile.mkstemp(prefix="dia-ort-", suffix=".wav")
        os.close(handle)
        write_audio(name, samples, sample_rate)
    except OSError as error:
        return f"Nor could it be kept elsewhere: {error}"
    return f"The speech is kept in {name}"
