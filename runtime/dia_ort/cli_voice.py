"""``dia-ort voice``: voices that are kept by name."""

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dia_ort.anchors import Room
from dia_ort.artifacts import Artifact, list_artifacts
from dia_ort.audio import write_audio
from dia_ort.cli_input import check_argument, read_recording, with_tag
from dia_ort.cli_models import align
from dia_ort.cli_options import Json
from dia_ort.cli_output import check_place, find_format
from dia_ort.cli_terminal import Terminal
from dia_ort.config import GenerationConfig
from dia_ort.dia import Dia
from dia_ort.errors import InvalidConfigError, VoiceFileError
from dia_ort.voice import NO_TRANSCRIPT, Voice
from dia_ort.voices import (
    SUFFIX,
    find_voice,
    list_built_in_voices,
    list_voice_files,
    remove_voice,
    voice_file,
    voices_folder,
)

_LEAST_GOOD, _MOST_GOOD = 5, 10  # seconds, as upstream recommends

app = typer.Typer(
    name="voice",
    help="Keep voices by name, for speak --voice.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, - and _.")]
NameOrFile = Annotated[
    str, typer.Argument(metavar="NAME_OR_FILE", help="A name from `voice list`, or a voice file.")
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME_OR_DIR",
        help="The model whose codec to use. By default the one that speak takes.",
    ),
]


@app.command()
def add(
    name: Name,
    recording: Annotated[
        str,
        typer.Argument(
            metavar="RECORDING",
            help="An audio file of 1 to 30 s; 5 to 10 s of clear speech are best.",
        ),
    ],
    *,
    transcript: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What it says, word for word, with its [S1] and [S2]. Without it the voice "
            "sounds worse.",
        ),
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize",
            help="Bring it to a common level first: an RMS of -23 dBFS, or less where a peak would "
            "be over -1 dBFS.",
        ),
    ] = False,
    model: Model = None,
) -> None:
    """Make a voice of a recording, and keep it."""
    terminal = Terminal(quiet=False)
    path = voice_file(name)
    if path.exists():
        raise InvalidConfigError(
            f"there is a voice {name!r} already: take another name, or remove it first "
            f"(dia-ort voice remove {name})"
        )
    words = check_argument(transcript or "", "--transcript")
    given = read_recording(recording, with_tag(words, "transcript", terminal))
    if not given.transcript:
        terminal.warn(NO_TRANSCRIPT)
    if not _LEAST_GOOD <= given.duration <= _MOST_GOOD:
        terminal.note(
            f"note: the recording lasts {given.duration:.1f} s; {_LEAST_GOOD} to {_MOST_GOOD} s "
            "are best"
        )
    with terminal.progress():
        dia = Dia.load(model)
        terminal.show("listening")
        voice = Voice.from_audio(
            dia,
            given.samples,
            given.transcript,
            sample_rate=given.sample_rate,
            normalize=normalize,
        )
    Room(dia.manifest, GenerationConfig()).check(voice)
    dataclasses.replace(voice, origin=Path(recording).name).save(name)
    typer.echo(
        f"{path}: {len(voice.codes)} frames, for models with the codec of {dia.artifact.name}"
    )


@app.command("list")
def list_voices(*, as_json: Json = False) -> None:
    """List the voices that are kept, and the demo's own."""
    models = list_artifacts()
    paths = [*list_voice_files(), *list_built_in_voices()]
    rows = [_try_summary(path, models) for path in paths]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if rows:
        cells = [(row["name"], _length(row), _words(row)) for row in rows]
        typer.echo("\n".join([*align([("NAME", "LENGTH", "TRANSCRIPT"), *cells]), ""]))
    typer.echo(f"`dia-ort voice add` puts voices into {voices_folder()}.")


@app.command()
def show(voice: NameOrFile, *, as_json: Json = False) -> None:
    """Show what a voice says, and where it came from."""
    row = _summary(find_voice(voice), list_artifacts())
    if as_json:
        typer.echo(json.dumps(row, indent=2))
        return
    lines = [
        ("name", row["name"]),
        ("file", row["file"]),
        ("length", _length(row)),
        ("transcript", row["transcript"] or "none"),
        ("codec", row["codec"] or "unknown"),
        ("models", ", ".join(row["models"]) or "none here has this codec"),
        ("origin", row["origin"] or "unknown"),
    ]
    typer.echo("\n".join(align(lines)))


@app.command()
def remove(name: Name) -> None:
    """Delete a voice."""
    typer.echo(f"removed {name}: deleted {remove_voice(name)}")


@app.command()
def export(
    voice: NameOrFile,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help=f"The copy, replaced if it is there; *{SUFFIX}.")
    ],
    *,
    audio: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write what the voice sounds like too: wav, flac, ogg, opus, mp3."
        ),
    ] = None,
    model: Model = None,
) -> None:
    """Copy a voice to a file, which speak --voice takes too."""
    if not file.endswith(SUFFIX):
        raise InvalidConfigError(
            f"the copy {file!r} must end in {SUFFIX}; what the voice sounds like is written with "
            "--audio."
        )
    if audio is not None:
        find_format(audio)
        check_place(Path(audio), "--audio")
    copied = Voice.load(voice)
    copied.save(Path(file))
    typer.echo(f"{file}: the voice")
    if audio is not None:
        _write_sound(copied, audio, model)
        typer.echo(f"{audio}: what the voice sounds like")


def _write_sound(voice: Voice, file: str, model: str | None) -> None:
    terminal = Terminal(quiet=False)
    with terminal.progress():
        dia = Dia.load(model)
        voice.check_codec(dia.manifest.codec_id)
        terminal.show("decoding")
        write_audio(file, dia.decode_codes(voice.codes), dia.sample_rate)


def _summary(path: Path, models: Sequence[Artifact]) -> dict[str, Any]:
    """A voice for tables and JSON; its seconds are only known with a model of its codec."""
    voice = Voice.load(path)
    fitting = [model for model in models if model.manifest.codec_id == voice.codec]
    seconds = None
    if fitting:
        codec = fitting[0].manifest.codec
        seconds = len(voice.codes) * codec.hop_length / codec.sample_rate
    return {
        "name": path.stem,
        "file": str(path),
        "frames": len(voice.codes),
        "seconds": seconds,
        "transcript": voice.transcript,
        "codec": voice.codec,
        "models": [model.name for model in fitting],
        "origin": voice.origin,
    }


def _try_summary(path: Path, models: Sequence[Artifact]) -> dict[str, Any]:
    try:
        voice_file(path.stem)
        return _summary(path, models)
    except (VoiceFileError, InvalidConfigError) as error:
        return {"name": path.stem, "file": str(path), "error": str(error)}


def _length(row: dict[str, Any]) -> str:
    if "error" in row:
        return "damaged"
    seconds = row["seconds"]
    frames = f"{row['frames']} frames"
    return frames if seconds is None else f"{seconds:.2f} s ({frames})"


def _words(row: dict[str, Any]) -> str:
    """The transcript, shortened to its beginning, or what is wrong."""
    if "error" in row:
        error: str = row["error"]
        return error
    return textwrap.shorten(row["transcript"], 60, placeholder=" ...") or "none"
