"""What commands are given: a script and perhaps a voice, both checked early."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dia_ort.audio import read_audio
from dia_ort.cli_terminal import Terminal
from dia_ort.errors import AudioFileError, InvalidAudioError, InvalidConfigError, InvalidTextError
from dia_ort.script import fix_tags
from dia_ort.text import SPEAKER_TAGS
from dia_ort.voice import Voice, check_duration

STDIN = "-"


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A voice to go on from, as it was recorded.

    Attributes:
        samples: float32, (samples, channels).
        sample_rate: In hertz.
        transcript: What it says; empty if nobody told.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    transcript: str

    @property
    def duration(self) -> float:
        """The length in seconds."""
        return len(self.samples) / self.sample_rate


def read_script(text: str | None, file: str | None, hint: str = "") -> str:
    """The script from the command line, stdin or a file, without white space around it.

    Args:
        text: The script, or ``-`` for stdin.
        file: A file's name, or ``-``.
        hint: What to say further of a file that cannot be read.

    Raises:
        InvalidConfigError: Both are given, or neither.
        InvalidTextError: The file cannot be read, or the script is not UTF-8.
    """
    if (text is None) == (file is None):
        raise InvalidConfigError(
            "give the script either as TEXT ('-' reads stdin) or with --file; see "
            "`dia-ort speak --help`."
        )
    if STDIN in (text, file):
        return _decode(sys.stdin.buffer.read(), "the script on stdin")
    if file is not None:
        return _decode(_read_file(file, hint), f"the script {file}")
    return check_argument(text or "", "TEXT")


def read_bytes(file: str) -> bytes:
    """A file's content, or what comes from stdin for ``-``.

    Raises:
        InvalidTextError: The file cannot be read.
    """
    return sys.stdin.buffer.read() if file == STDIN else _read_file(file)


def check_argument(text: str, name: str) -> str:
    """A text from the command line, whose undecodable bytes Python made lone surrogates.

    Raises:
        InvalidTextError: There are such.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        position = len(text[: error.start].encode())
        raise InvalidTextError(
            f"{name} is not UTF-8 at byte {position}: set the terminal to UTF-8, or put the script "
            "into a UTF-8 file and give it with --file."
        ) from error
    return text.strip()


def read_voice(
    voice: str | None, audio: str | None, transcript: str | None
) -> Voice | Recording | None:
    """The voice to go on from, if one is given: ready, or as it was recorded.

    Raises:
        InvalidConfigError: Both are given, or a transcript without a recording.
        VoiceFileError: There is no such voice, or it is damaged.
        InvalidAudioError, InvalidTextError: As in :func:`read_recording`.
    """
    if voice is not None and (audio, transcript) != (None, None):
        raise InvalidConfigError(
            "--voice brings its recording and transcript: leave out --voice-audio and "
            "--voice-transcript, or --voice."
        )
    if audio is None and transcript is not None:
        raise InvalidConfigError(
            "--voice-transcript says what is spoken in --voice-audio: give that too."
        )
    if audio is not None:
        return read_recording(audio, check_argument(transcript or "", "--voice-transcript"))
    return None if voice is None else Voice.load(voice)


def read_recording(file: str, transcript: str) -> Recording:
    """A recording to make a voice of.

    Raises:
        InvalidAudioError: It is missing, no audio, too short or too long.
    """
    try:
        return Recording(*read_audio(file, check_duration), transcript)
    except AudioFileError as error:
        raise InvalidAudioError(str(error)) from error


def with_tag(text: str, name: str, terminal: Terminal) -> str:
    """A text that says from its beginning who speaks, in Dia's tags: it was trained on such alone.

    Raises:
        InvalidTextError: It has the tag of a third speaker.
    """
    text = fix_tags(text, name)
    if not text.strip() or text.lstrip().startswith(tuple(SPEAKER_TAGS)):
        return text
    terminal.note(f"note: the {name} begins with neither [S1] nor [S2]: [S1] is put before it")
    return f"[S1] {text.lstrip()}"


def is_file(text: str) -> bool:
    """Whether a text is the name of a file."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _read_file(file: str, hint: str = "") -> bytes:
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidTextError(f"cannot read the script {file}: {reason}{hint}.") from error


def _decode(content: bytes, name: str) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidTextError(
            f"{name} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x} "
            f"({error.reason}). Save it as UTF-8."
        ) from error
    return text.removeprefix("\ufeff").strip()  # Windows editors write a byte order mark
