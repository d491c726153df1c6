"""The command line, ``dia-ort``: ``speak``, ``batch`` and the rest.

Importing this loads no onnxruntime, soundfile or rich, so that ``--help`` is quick.
"""

import io
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from dia_ort import cli_batch, cli_models, cli_plan, cli_serve, cli_voice
from dia_ort._version import __version__
from dia_ort.artifacts import broken_models
from dia_ort.cli_input import is_file, read_script, read_voice
from dia_ort.cli_narrate import Subtitles, find_reading
from dia_ort.cli_options import Json, Provider, ProviderOptions, Quiet, Speakers, Threads
from dia_ort.cli_output import STDOUT, AudioFormat, check_apart, find_target
from dia_ort.cli_plan import parse_speakers
from dia_ort.cli_speak import Job
from dia_ort.cli_speak import speak as run_job
from dia_ort.cli_terminal import Terminal
from dia_ort.config import GenerationConfig
from dia_ort.errors import DiaError, InvalidAudioError, InvalidConfigError, InvalidTextError
from dia_ort.providers import parse_provider_options
from dia_ort.script import parse_script

_DEFAULTS = GenerationConfig()
_MISTAKES = (InvalidTextError, InvalidConfigError, InvalidAudioError)
_BROKEN_PIPE = 141
_OPTIONS = {"cfg_filter_top_k": "--top-k", "max_silence": "--trim-silence"}

_EXIT_CODES = """\b
Exit codes:
  0    done
  1    it failed: the model or the voice's file is missing or broken, the
       provider is not there, the output cannot be written, nothing was spoken
  2    a mistake in what was given: usage, script, settings or voice
  130  Ctrl-C; the speech so far is saved
  141  nobody reads the output any more (broken pipe)
"""

app = typer.Typer(
    name="dia-ort",
    help="Speak with Dia on ONNX Runtime.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A name from `dia-ort models`, or a folder; none: the one that speak takes.",
        show_default=False,
    ),
]


def main() -> None:
    """Run ``dia-ort``. A foreseen error is one message on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # which may not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            app(prog_name="dia-ort")
    except DiaError as error:
        sys.stderr.write(f"error: {_name_option(str(error))}\n")
        sys.exit(2 if isinstance(error, _MISTAKES) else 1)
    except OSError as error:  # a full disk, a folder without permission
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except SystemExit as leaving:  # typer leaves with 1 when a pipe breaks
        if isinstance(leaving.__context__, BrokenPipeError):
            sys.exit(_BROKEN_PIPE)
        raise


def _name_option(message: str) -> str:
    """An error that begins with a field's name, with the option's where that is another."""
    for field, option in _OPTIONS.items():
        if message.startswith(f"{field} is "):
            return option + message.removeprefix(field)
    return message


def _show_warning(message: Warning | str, *_: object) -> None:
    Terminal(quiet=False).warn(str(message))


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        typer.echo(f"dia-ort {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def speak(
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT",
            help="The script, with [S1] and [S2] before the speakers' turns; - reads stdin.",
            show_default=False,
        ),
    ] = None,
    *,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="Read the script from a UTF-8 file."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The audio file, replaced if it is there; - is stdout. Without it the name is "
            "the first free one of speech.wav, speech-1.wav, ...",
        ),
    ] = None,
    audio_format: Annotated[
        AudioFormat | None,
        typer.Option("--format", help="The audio format. By default the output's suffix, or wav."),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Write wav while it is spoken. A file is there from the first piece on, growing, "
            "and can be played at any time; through a pipe: `dia-ort speak TEXT --stream -o - | "
            "aplay`.",
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_DIR",
            help="A name from `dia-ort models`, or a folder. By default the newest exported "
            "model, or the built-in demo.",
        ),
    ] = None,
    provider: Provider = "auto",
    provider_option: ProviderOptions = None,
    threads: Threads = None,
    voice: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE", help="A voice from `dia-ort voice list`, or a voice file."
        ),
    ] = None,
    voice_audio: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A recording to go on from, best 5 to 10 s of it."),
    ] = None,
    voice_transcript: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the recording says, with its tags.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Makes the same speech again.")
    ] = _DEFAULTS.seed,
    temperature: Annotated[
        float, typer.Option(metavar="X", help="0 is greedy, more is livelier.")
    ] = _DEFAULTS.temperature,
    cfg_scale: Annotated[
        float, typer.Option(metavar="X", help="How closely to keep to the text; 0 is off.")
    ] = _DEFAULTS.cfg_scale,
    top_p: Annotated[
        float, typer.Option(metavar="X", help="Draw from the likeliest tokens up to this sum.")
    ] = _DEFAULTS.top_p,
    top_k: Annotated[
        int, typer.Option(metavar="N", help="Candidates that guidance lets through.")
    ] = _DEFAULTS.cfg_filter_top_k,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="The most decoder steps, 86 to the second. By default the model's."
        ),
    ] = _DEFAULTS.max_tokens,
    speaker: Speakers = None,
    retries: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How often a chunk of odd length is tried again. By default 2 for scripts of "
            "several chunks.",
        ),
    ] = None,
    crossfade: Annotated[
        float | None,
        typer.Option(metavar="X", help="Seconds by which chunks overlap. By default 0.03."),
    ] = None,
    pause: Annotated[
        float | None,
        typer.Option(metavar="X", help="Seconds of silence between chunks, instead."),
    ] = None,
    trim_silence: Annotated[
        float | None,
        typer.Option(metavar="X", help="Cut longer silences down to so many seconds."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(metavar="X", help="0.25 to 4, at the same pitch; needs dia-ort[speed]."),
    ] = None,
    srt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write subtitles as SubRip.")
    ] = None,
    vtt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write subtitles as WebVTT.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Speak a script of any length.

    The script has tags ([S1] Hello. [S2] Hi!), names (lines like Ann: Hello.), or one speaker, and
    pauses like [pause 0.8s]. What is too long for the model is spoken in chunks, in the same
    voices; `dia-ort plan` shows them.

    Ctrl-C keeps what is spoken so far; a second Ctrl-C drops it.
    """
    terminal = Terminal(quiet=quiet)
    script = read_script(text, file)
    if text and is_file(text):
        terminal.warn(f"this speaks the words {text!r}: --file {text} speaks what is in that file")
    subtitles = Subtitles(srt, vtt)
    job = Job(
        script=script,
        reading=find_reading(
            parse_script(script, parse_speakers(speaker or ())),
            subtitles,
            retries=retries,
            crossfade=crossfade,
            pause=pause,
            max_silence=trim_silence,
            speed=speed,
        ),
        config=GenerationConfig(
            max_tokens=max_tokens,
            cfg_scale=cfg_scale,
            temperature=temperature,
            top_p=top_p,
            cfg_filter_top_k=top_k,
            seed=seed,
        ),
        voice=read_voice(voice, voice_audio, voice_transcript),
        target=find_target(output, audio_format, stream=stream),
        model=model,
        provider=provider,
        provider_options=parse_provider_options(provider_option or ()),
        threads=threads,
    )
    check_apart(
        {"--file": file, "--voice-audio": voice_audio},
        {"-o": None if output == STDOUT else job.target.path, **subtitles.paths},
    )
    raise typer.Exit(run_job(job, terminal))


app.command(epilog=cli_batch.LINES)(cli_batch.batch)
app.command()(cli_plan.plan)
app.command(epilog=cli_serve.SOURCES, context_settings=cli_serve.CONTEXT)(cli_serve.serve)
app.add_typer(cli_voice.app)


@app.command()
def models(*, json: Json = False) -> None:
    """List the models that --model takes by name."""
    for message in broken_models():
        Terminal(quiet=False).warn(message)
    typer.echo(cli_models.list_models(as_json=json))


@app.command()
def info(model: ModelArgument = None, *, json: Json = False) -> None:
    """Show what a model is made of, and where it came from."""
    typer.echo(cli_models.describe(model, as_json=json))


@app.command()
def verify(model: ModelArgument = None) -> None:
    """Check the files of a model, and load its graphs.

    Each file is held against the hash in the manifest; each graph is loaded on the CPU and its
    inputs and outputs held against their declaration.
    """
    for line in cli_models.verify(model):
        typer.echo(line)


@app.command()
def doctor(*, json: Json = False) -> None:
    """Say what dia-ort would use here, and what is wrong."""
    from dia_ort.doctor import diagnose  # noqa: PLC0415 - only this command needs it

    diagnosis = diagnose()
    typer.echo(diagnosis.to_json() if json else diagnosis.to_text())
    raise typer.Exit(0 if diagnosis.can_speak else 1)
