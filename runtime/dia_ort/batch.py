"""A file of scripts, one JSON object to the line, to a folder of audio; it can be resumed.

What is finished stands in ``batch.jsonl`` in that folder, with a hash of everything that the audio
depends on. A line whose output is there under the same hash is not spoken again. Audio appears
under its name when it is whole, and is noted after that, so it can be stopped at any point.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from dia_ort.artifacts import hash_file
from dia_ort.audio import AUDIO_FORMATS
from dia_ort.config import GenerationConfig
from dia_ort.engine import Engine
from dia_ort.errors import DiaError, InvalidConfigError, InvalidTextError
from dia_ort.files import is_reserved, remove_unfinished, write_file
from dia_ort.manifest import MANIFEST_NAME
from dia_ort.narration import NarrationOptions, narrate
from dia_ort.script import Script, parse_script
from dia_ort.voice import Voice

RECORD = "batch.jsonl"

_CONFIG = tuple(field.name for field in fields(GenerationConfig))
_OPTIONS = ("retries", "crossfade", "pause", "max_silence", "speed")
_KEYS = ("text", "id", "output", "voice", "speakers", *_CONFIG, *_OPTIONS)
_ENTRY = ("output", "request", "size", "faults")
_OUTPUT = re.compile(r"([A-Za-z0-9_-]{1,100}/)*[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read and checked.

    Attributes:
        number: From 1, of all lines.
        output: Its audio, relative to the folder.
        text: The script.
        speakers: Whose turns names stand for.
        warnings: What may not come out as it was meant.
        voice: A name or a file; None: none.
        config: Always with a seed.
        options: How it is narrated.
    """

    number: int
    output: str
    text: str
    speakers: Mapping[str, str]
    warnings: tuple[str, ...]
    voice: str | None
    config: GenerationConfig
    options: NarrationOptions

    def script(self) -> str | Script:
        """The script, as :func:`dia_ort.narration.narrate` takes it."""
        return parse_script(self.text, self.speakers) if self.speakers else self.text


@dataclass(frozen=True, slots=True)
class Failure:
    """A line that cannot be read or spoken, and why."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Spoken:
    """What came of a line.

    Attributes:
        seconds: How long it lasts.
        faults: What may have come out badly.
    """

    seconds: float
    faults: tuple[str, ...]


def read_lines(content: bytes, suffix: str) -> Iterator[Line | Failure]:
    """The lines of a file, but for blank ones, each on its own.

    Args:
        content: UTF-8, a JSON object to the line.
        suffix: Of outputs that a line gives no name with a suffix for, such as ``"wav"``.
    """
    taken: dict[str, int] = {}
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            line = _read_line(number, raw, suffix)
            if (first := taken.setdefault(line.output.casefold(), number)) != number:
                raise InvalidConfigError(f"line {first} has the output {line.output!r} already")
            yield line
        except DiaError as error:
            yield Failure(number, str(error))


def _read_line(number: int, raw: bytes, suffix: str) -> Line:
    try:
        record = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidTextError(f"it is no JSON ({error})") from error
    if not isinstance(record, dict):
        raise InvalidTextError('it is no object like {"text": "[S1] Hello."}')
    if unknown := sorted(record.keys() - set(_KEYS)):
        raise InvalidConfigError(f"it has an unknown {unknown[0]!r}; there are {', '.join(_KEYS)}")
    text, voice, speakers = record.get("text"), record.get("voice"), record.get("speakers", {})
    if not isinstance(text, str):
        raise InvalidTextError("it has no 'text', or that is no string")
    if not isinstance(voice, str | None):
        raise InvalidConfigError("'voice' is no string: give a name or a voice file")
    if not isinstance(speakers, dict) or not all(isinstance(s, str) for s in speakers.values()):
        raise InvalidConfigError('\'speakers\' is no object like {"Ann": "S1"}')
    config = GenerationConfig(**{key: record[key] for key in _CONFIG if key in record})
    return Line(
        number=number,
        output=_output(record, number, suffix),
        text=text,
        speakers=speakers,
        warnings=parse_script(text, speakers).warnings,
        voice=voice,
        config=config if config.seed is not None else replace(config, seed=0),
        options=NarrationOptions(
            **{key: record[key] for key in _OPTIONS if record.get(key) is not None}
        ),
    )


def _output(record: dict[str, Any], number: int, suffix: str) -> str:
    """Where the audio goes: a name, perhaps in folders, that stays in the batch's folder."""
    name, own = record.get("output"), record.get("id")
    if isinstance(own, bool) or not isinstance(own, str | int | None):
        raise InvalidConfigError(f"'id' is {own!r}: give a string or a whole number")
    if name is None:
        name = f"{f'{number:04}' if own is None else own}.{suffix}"
    if not isinstance(name, str) or not _OUTPUT.fullmatch(name):
        raise InvalidConfigError(
            f"{name!r} is no name for an output: give an 'id' or an 'output' of letters, digits, "
            "-, _ and . (folders have no . and end in /)"
        )
    if device := next(filter(is_reserved, name.split("/")), None):
        raise InvalidConfigError(
            f"{name!r} is no name for an output: on Windows {device!r} is a device's. Take another"
        )
    if PurePosixPath(name).suffix.lower().removeprefix(".") not in AUDIO_FORMATS:
        raise InvalidConfigError(
            f"the output {name!r} tells no audio format: end it in one of "
            f"{', '.join(f'.{known}' for known in AUDIO_FORMATS)}"
        )
    return name


class Batch:
    """Speaks lines into a folder, as far as that is not done yet.

    One batch at a time has a folder; :meth:`speak` is for any number of threads.

    Args:
        engine: Runs all of them.
        folder: Made if it is not there.
        voice: For lines without one; None: none.

    Raises:
        OSError: The folder cannot be made, or its record not be read.
    """

    def __init__(self, engine: Engine, folder: Path, voice: str | None = None) -> None:
        self._engine = engine
        self._folder = folder
        self._voice = voice
        self._voices: dict[str, Voice] = {}
        self._model = hash_file(engine.dia.artifact.folder / MANIFEST_NAME)
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        self._done = _read_record(folder / RECORD)
        self._write_record(self._done)

    def is_done(self, line: Line) -> bool:
        """Whether its output is there, and was made of the same line by the same model.

        Raises:
            DiaError: Its voice cannot be loaded.
        """
        entry, path = self._done.get(line.output), self._folder / line.output
        return (
            entry is not None
            and entry["request"] == self._hash(line)
            and path.is_file()
            and path.stat().st_size == entry["size"]
        )

    def speak(self, line: Line) -> Spoken:
        """Speak a line and write its audio.

        Raises:
            DiaError: It cannot be spoken or written.
            OSError: Its folder cannot be made.
        """
        path = self._folder / line.output
        path.parent.mkdir(parents=True, exist_ok=True)
        voice = self._load_voice(line)
        narration = narrate(self._engine, line.script(), line.config, voice, line.options)
        narration.save(path)
        faults = [chunk for chunk in narration.chunks if chunk.fault]
        return Spoken(
            narration.duration,
            tuple(
                f"chunk {chunk.index + 1}, at {chunk.start:.1f} s: {chunk.fault}"
                for chunk in faults
            ),
        )

    def faults(self, line: Line) -> tuple[str, ...]:
        """What may have come out badly of a line that is done."""
        return tuple(self._done[line.output]["faults"])

    def note(self, line: Line, spoken: Spoken) -> None:
        """Record that a line is done; for one thread at a time."""
        entry = {
            "output": line.output,
            "request": self._hash(line),
            "size": (self._folder / line.output).stat().st_size,
            "faults": spoken.faults,
        }
        self._done[line.output] = entry
        with (self._folder / RECORD).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(entry) + "\n")

    def finish(self, lines: list[Line]) -> None:
        """Put the record into the order of the lines."""
        outputs = [line.output for line in lines if line.output in self._done]
        rest = [output for output in self._done if output not in set(outputs)]
        self._write_record({output: self._done[output] for output in [*outputs, *rest]})

    def _write_record(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Anew, as a line that was cut short must not stay at the end."""
        text = "".join(json.dumps(entry) + "\n" for entry in entries.values())
        write_file(self._folder / RECORD, text.encode())

    def _load_voice(self, line: Line) -> Voice | None:
        name = line.voice or self._voice
        if name is None:
            return None
        if name not in self._voices:
            self._voices[name] = Voice.load(name)
        return self._voices[name]

    def _hash(self, line: Line) -> str:
        """Of everything that the audio depends on."""
        voice = self._load_voice(line)
        request = {
            "model": self._model,
            "provider": self._engine.dia.provider.name,
            "text": line.text,
            "speakers": dict(line.speakers),
            "voice": voice
            and [voice.transcript, hashlib.sha256(voice.codes.tobytes()).hexdigest()],
            "config": asdict(line.config),
            "options": asdict(line.options),
            "output": line.output,
        }
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    """What is done, by output; lines that were cut short are left out."""
    done: dict[str, dict[str, Any]] = {}
    for raw in path.read_bytes().splitlines() if path.exists() else ():
        try:
            entry = {"faults": []} | json.loads(raw)
            done[entry["output"]] = {key: entry[key] for key in _ENTRY}
        except (ValueError, KeyError, TypeError):
            continue
    return done
