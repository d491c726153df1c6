"""``dia-ort plan``: how a script would be cut into chunks, without a model."""

import dataclasses
import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from dia_ort.anchors import Room
from dia_ort.artifacts import list_artifacts
from dia_ort.cli_input import read_script, with_tag
from dia_ort.cli_models import align
from dia_ort.cli_narrate import find_short
from dia_ort.cli_options import Json, Speakers
from dia_ort.cli_terminal import Terminal
from dia_ort.config import GenerationConfig
from dia_ort.errors import InvalidConfigError
from dia_ort.plan import Plan, PlanLimits
from dia_ort.script import Change, Script, parse_script
from dia_ort.voice import Voice

_DEFAULTS = PlanLimits()


def plan(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", help="The script, in UTF-8; - reads stdin.", show_default=False
        ),
    ] = None,
    *,
    text: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The script itself, instead of FILE.")
    ] = None,
    speaker: Speakers = None,
    voice: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE", help="The voice it is to be spoken in; it takes from the room."
        ),
    ] = None,
    min_seconds: Annotated[
        float, typer.Option(metavar="X", help="Chunks shorter than this are joined.")
    ] = _DEFAULTS.min_seconds,
    max_seconds: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Chunks longer than this are cut. What the model has room for lowers it: to 14 "
            "for several chunks without a voice.",
        ),
    ] = _DEFAULTS.max_seconds,
    no_closing_tag: Annotated[
        bool,
        typer.Option("--no-closing-tag", help="Do not end chunks with the other speaker's tag."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the chunks in which speak would speak a script. Times are estimates.

    The script has tags ([S1] Hello. [S2] Hi!), names (lines like Ann: Hello.), or one speaker, and
    pauses like [pause 0.8s].
    """
    if (text is None) == (file is None):
        raise InvalidConfigError(
            "give the script either as FILE ('-' reads stdin) or with --text; see "
            "`dia-ort plan --help`."
        )
    limits = PlanLimits(
        min_seconds=min_seconds, max_seconds=max_seconds, closing_tag=not no_closing_tag
    )
    content = read_script(text, file, "; a script itself is given with --text")
    script = parse_script(content, parse_speakers(speaker or ()))
    manifest = list_artifacts()[0].manifest  # of the model that speak takes; none is loaded
    room = Room(manifest, GenerationConfig())
    given = None if voice is None else Voice.load(voice)
    if find_short(script, room, given):  # which stays as it stands
        result = room.plan(with_tag(content, "script", Terminal(quiet=False)), limits, given)
        script = dataclasses.replace(script, changes=())
    else:
        result = room.plan(script, limits, given)
    typer.echo(
        _to_json(result, script) if as_json else "\n".join(_to_lines(result, script, limits))
    )


def parse_speakers(options: Sequence[str]) -> dict[str, str]:
    """What ``--speaker`` says, by name.

    Raises:
        InvalidConfigError: It cannot be read, or a name has two speakers.
    """
    speakers: dict[str, str] = {}
    for option in options:
        name, equals, speaker = (part.strip() for part in option.rpartition("="))
        if not equals:
            raise InvalidConfigError(f'--speaker is {option!r}: write it like "Ann=S1"')
        if speakers.setdefault(name, speaker) != speaker:
            raise InvalidConfigError(
                f"--speaker maps {name!r} to {speakers[name]} and to {speaker}: give one of them"
            )
    return speakers


def _to_json(plan: Plan, script: Script) -> str:
    record = {**dataclasses.asdict(plan), "seconds": plan.seconds}
    return json.dumps({"plan": record, "script": dataclasses.asdict(script)}, indent=2)


def _to_lines(plan: Plan, script: Script, limits: PlanLimits) -> Iterator[str]:
    yield from _table(plan)
    speech = sum(chunk.seconds for chunk in plan.chunks)
    count = f"{len(plan.chunks)} chunk{'s' if len(plan.chunks) > 1 else ''}"
    times = f"{_clock(speech)} of speech and {_clock(plan.seconds - speech)} of pauses"
    yield from ("", f"{count}, about {_clock(plan.seconds)}: {times}")
    if script.changes:
        yield from ("", "changed", *align([_describe(change) for change in script.changes]))
    warnings = [*script.warnings, *_odd_lengths(plan, limits)]
    if warnings:
        yield from ("", "warnings", *(f"  {warning}" for warning in warnings))


def _odd_lengths(plan: Plan, limits: PlanLimits) -> Iterator[str]:
    for chunk in plan.chunks:
        if not limits.min_seconds <= chunk.seconds <= limits.max_seconds:
            yield (
                f"chunk {chunk.index + 1} has {chunk.seconds:.1f} s of speech, not "
                f"{limits.min_seconds:g} to {limits.max_seconds:g} s: it may sound odd"
            )


def _table(plan: Plan) -> list[str]:
    """The chunks, their text in as many lines as it takes."""
    width = max(40, shutil.get_terminal_size((120, 24)).columns - 40)  # 40 are the other columns'
    rows = [("CHUNK", "START", "LENGTH", "PAUSE", "SPEAKERS", "TEXT")]
    for chunk in plan.chunks:
        first, *more = textwrap.wrap(
            chunk.text, width, break_long_words=False, break_on_hyphens=False
        )
        pause = f"{chunk.pause_after:g} s" if chunk.pause_after else ""
        times = (_clock(chunk.start), f"{chunk.seconds:.1f} s", pause)
        rows.append((str(chunk.index + 1), *times, " ".join(chunk.speakers), first))
        rows += [("", "", "", "", "", line) for line in more]
    return align(rows)


def _clock(seconds: float) -> str:
    minutes, tenths = divmod(round(seconds * 10), 600)
    return f"{minutes}:{tenths / 10:04.1f}"


def _describe(change: Change) -> tuple[str, ...]:
    after = repr(change.after) if change.after else "left out"
    return f"  {change.count} x", change.kind, f"{change.before!r} -> {after}"
