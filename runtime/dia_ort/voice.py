"""A voice to speak with: the codes of a recording, and what is said in it."""

import base64
import json
import math
import os
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from dia_ort.audio import Audio, FilePath, normalize_loudness, prepare_audio, read_audio
from dia_ort.errors import (
    InvalidAudioError,
    InvalidConfigError,
    InvalidTextError,
    VoiceFileError,
    warn_caller,
)
from dia_ort.files import write_file
from dia_ort.script import fix_tags
from dia_ort.voices import find_voice, locate_voice, missing_voice, voices_folder

if TYPE_CHECKING:
    from dia_ort.dia import Dia

MIN_SECONDS, MAX_SECONDS = 1, 30
NO_TRANSCRIPT = (
    "the voice has no transcript (what its recording says, with its speaker tags), so it will "
    "sound worse: Dia takes the first words of a text for what the recording says, leaves them "
    "out, and soon drifts to another voice."
)

_FORMAT, _VERSION = "dia-ort voice", 1
_CODES = np.dtype("<u2")
_TYPES: dict[str, tuple[type, ...]] = {
    "format": (str,),
    "version": (int,),
    "codec": (str, NoneType),
    "origin": (str,),
    "transcript": (str,),
    "shape": (list,),
    "codes": (str,),
}


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """A recording that generation goes on from, in the same voices.

    Attributes:
        codes: The codec's codes of the recording, integers of shape ``(frames, channels)``; kept
            as a read-only copy.
        transcript: What the recording says, with its speaker tags; it goes before the text.
        codec: Whose codes they are, as :attr:`dia_ort.manifest.Manifest.codec_id` has it. Models
            with another codec refuse the voice; None: nobody knows, and none does.
        origin: Where it came from, for people to read.

    Raises:
        InvalidAudioError: The codes have another shape or type, no frames, or negative values.
        InvalidTextError: The transcript is not a str.
    """

    codes: NDArray[np.integer]
    transcript: str = ""
    codec: str | None = None
    origin: str = ""

    def __repr__(self) -> str:
        return (
            f"Voice({len(self.codes)} frames, transcript={reprlib.repr(self.transcript)}, "
            f"codec={self.codec!r}, origin={self.origin!r})"
        )

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if not np.issubdtype(codes.dtype, np.integer):
            raise InvalidAudioError(f"a voice's codes are {codes.dtype}: give integers")
        if codes.ndim != 2 or not codes.size:
            raise InvalidAudioError(
                f"a voice's codes have shape {codes.shape}: give (frames, channels), and at least "
                "one frame"
            )
        if codes.min() < 0:
            raise InvalidAudioError(
                f"a voice's codes go down to {codes.min()}: give codes of the codec, 0 or more"
            )
        if not isinstance(self.transcript, str):
            raise InvalidTextError(
                f"a voice's transcript is {type(self.transcript).__name__}: give a str"
            )
        codes = codes.astype(np.int64)
        codes.flags.writeable = False
        object.__setattr__(self, "codes", codes)

    @classmethod
    def from_audio(
        cls,
        dia: "Dia",
        audio: FilePath | NDArray[Any],
        transcript: str = "",
        *,
        sample_rate: int | None = None,
        normalize: bool = False,
    ) -> Self:
        """Make a voice of a recording of 1 to 30 s; 5 to 10 s of clear speech are best.

        Args:
            dia: Whose codec encodes it, and which can speak with it.
            audio: A file in any format that soundfile reads, or samples of shape ``(samples,)``
                or ``(samples, channels)``, floating point from -1 to 1, or int16 or int32. They
                are made mono and resampled by soxr.
            transcript: What it says, word for word, with its speaker tags (``[s1]`` is one too).
            sample_rate: Of samples, in hertz.
            normalize: Bring it to a common level first; see
                :func:`dia_ort.audio.normalize_loudness`.

        Raises:
            AudioFileError: The file is missing, or not audio.
            InvalidAudioError: The recording is too short, too long or silent, or the samples are
                not as above, or neither a file nor samples.
            InvalidConfigError: There is a sample rate with a file, or none with samples.
            InvalidTextError: The transcript is not a str, or has the tag of a third speaker.
        """
        origin = ""
        if isinstance(audio, str | os.PathLike):
            if sample_rate is not None:
                raise InvalidConfigError("sample_rate is for samples; a file has its own")
            origin = Path(audio).name
            audio, sample_rate = read_audio(audio, check_duration)
        elif np.asarray(audio).dtype.kind in "OSU":  # objects and bytes: nothing of numbers
            raise InvalidAudioError(
                f"the recording is {type(audio).__name__}: give a file's path, or samples; "
                "read_audio(io.BytesIO(content)) makes samples of a file in memory"
            )
        elif sample_rate is None:
            raise InvalidConfigError("samples say nothing of their rate: give sample_rate too")
        samples = prepare_audio(audio, sample_rate, dia.sample_rate)
        check_duration(len(samples) / dia.sample_rate)
        if not samples.any():
            raise InvalidAudioError("the recording is silent: give one with speech")
        if normalize:
            samples = normalize_loudness(samples)
        codes = dia.encode_audio(samples, dia.sample_rate)
        voice = cls(codes, transcript, dia.manifest.codec_id, origin)
        return replace(voice, transcript=fix_tags(voice.transcript, "transcript"))

    @classmethod
    def from_result(cls, audio: Audio, transcript: str | None = None) -> Self:
        """Keep the voices of generated speech.

        Args:
            audio: As generated.
            transcript: What it says; None takes the text that it was generated from.
        """
        if transcript is None:
            transcript = audio.text
            if audio.finish_reason == "length":
                warn_caller(
                    "this speech was cut off before its end, so its text may say more than it "
                    "does: give what it says as the transcript."
                )
        return cls(audio.codes, transcript, audio.codec, f"generated with seed {audio.seed}")

    @classmethod
    def load(cls, voice: FilePath) -> Self:
        """Load a voice that was saved.

        Args:
            voice: A str of letters, digits, ``-`` and ``_`` is a name in
                :func:`dia_ort.voices.voices_folder` or of a built-in one; anything else is a file.

        Raises:
            VoiceFileError: There is no such voice, or its file is damaged or no voice's.
            InvalidConfigError: The name is a device's on Windows.
        """
        _check_name(voice)
        path = find_voice(voice)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise missing_voice(path) from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = error.strerror if isinstance(error, OSError) else error
            raise VoiceFileError(f"cannot read the voice {path}: {reason}") from error
        return cls(**_parse(content, path))

    def save(self, voice: FilePath) -> None:
        """Write the voice to a file, whole or not at all; one that is there is replaced.

        Args:
            voice: A name or a file, as :meth:`load` takes it.

        Raises:
            VoiceFileError: It cannot be written.
            InvalidConfigError: The name is a device's on Windows.
            InvalidAudioError: The codes do not fit into 16 bits.
        """
        _check_name(voice)
        path = locate_voice(voice)
        content = self._to_json().encode()
        try:
            if path.parent == voices_folder():
                path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, content)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            missing = "" if path.parent.exists() else f": make the folder {path.parent} first"
            raise VoiceFileError(f"cannot write the voice {path} ({reason}){missing}") from error

    def script(self, text: str) -> str:
        """The whole script: the transcript, then the text to be spoken."""
        transcript = self.transcript.strip()
        return f"{transcript} {text}" if transcript else text

    def check_codec(self, codec: str) -> None:
        """Refuse to be used with another codec, whose codes mean other sounds.

        Raises:
            InvalidAudioError: The voice was made with another one.
        """
        if self.codec not in {None, codec}:
            raise InvalidAudioError(
                f"the voice was made with the codec {self.codec}, and this model has {codec}: take "
                "a model that has the voice's codec (`dia-ort voice show` lists them), or make the "
                "voice again from its recording with this one (`dia-ort voice add`)"
            )

    def _to_json(self) -> str:
        highest = self.codes.max()
        if highest > np.iinfo(_CODES).max:
            raise InvalidAudioError(
                f"a voice's codes go up to {highest}: a file holds {np.iinfo(_CODES).max} at most"
            )
        record = {
            "format": _FORMAT,
            "version": _VERSION,
            "codec": self.codec,
            "origin": self.origin,
            "transcript": self.transcript,
            "shape": self.codes.shape,
            "codes": base64.b64encode(self.codes.astype(_CODES).tobytes()).decode(),
        }
        return json.dumps(record, indent=2) + "\n"


def check_voice(voice: Voice | None) -> None:
    """Refuse what a caller gave for a voice and is none.

    Raises:
        InvalidAudioError: It is neither a :class:`Voice` nor None.
    """
    if isinstance(voice, str | os.PathLike):
        raise InvalidAudioError(f"voice is {voice!r}, and not a Voice: give Voice.load({voice!r})")
    if not isinstance(voice, Voice | None):
        raise InvalidAudioError(
            f"voice is {type(voice).__name__}: give a Voice, as Voice.load and Voice.from_audio "
            "make it"
        )


def _check_name(voice: FilePath) -> None:
    if not isinstance(voice, str | os.PathLike) or not os.fspath(voice):
        raise VoiceFileError(f"{voice!r} names no voice: give a name or a file, such as 'ann'")


def check_duration(seconds: float) -> None:
    """Refuse a recording that no good voice comes of.

    Raises:
        InvalidAudioError: It is shorter than 1 s or longer than 30 s.
    """
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        remedy = "record more" if seconds < MIN_SECONDS else "cut it"
        raise InvalidAudioError(
            f"the recording lasts {seconds:.1f} s, and a voice takes {MIN_SECONDS} to "
            f"{MAX_SECONDS} s: {remedy}; 5 to 10 s of clear speech are best"
        )


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    """What a voice file says, as the fields of :class:`Voice`."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise VoiceFileError(
            f"{path} is no voice, or was cut short ({error}): copy it again, or make a voice of a "
            "recording with `dia-ort voice add`"
        ) from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise VoiceFileError(
            f"{path} is no voice: make one of a recording with `dia-ort voice add`"
        )
    version = record.get("version")
    if type(version) is int and version > _VERSION:
        raise VoiceFileError(
            f"{path} has format version {version}, and this dia-ort reads up to {_VERSION}: "
            "upgrade dia-ort (pip install -U dia-ort)"
        )
    problem = next(_problems(record), None)
    if problem is not None:
        raise VoiceFileError(
            f"{path} is damaged: {problem}. Copy it again, or make the voice again with "
            "`dia-ort voice add`"
        )
    codes = np.frombuffer(base64.b64decode(record["codes"]), _CODES).reshape(record["shape"])
    return {"codes": codes, **{key: record[key] for key in ("transcript", "codec", "origin")}}


def _problems(record: dict[str, Any]) -> Iterator[str]:
    """What is wrong; each check relies on those before it."""
    for key in sorted(_TYPES.keys() ^ record.keys()):
        yield f"it lacks {key!r}" if key in _TYPES else f"it has an unknown {key!r}"
    for key, types in _TYPES.items():
        if type(record[key]) not in types:
            yield f"{key!r} is {reprlib.repr(record[key])}"
    if record["version"] != _VERSION:
        yield f"'version' is {record['version']}"
    shape = record["shape"]
    if len(shape) != 2 or any(type(size) is not int or size < 1 for size in shape):
        yield f"'shape' is {reprlib.repr(shape)}, not frames and channels"
    try:
        size = len(base64.b64decode(record["codes"], validate=True))
    except ValueError as error:
        yield f"'codes' is no base64 ({error})"
    else:
        if size != math.prod(shape) * _CODES.itemsize:
            yield f"'codes' has {size} bytes, not 2 for each of {shape[0]} x {shape[1]} codes"
