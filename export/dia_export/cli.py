"""The command ``dia-export``."""

import sys
import warnings
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from dia_export.exporter import DEFAULT_CODEC, DEFAULT_MODEL, RANDOM_MODELS, ExportResult, export
from dia_export.hub import push_to_hub
from dia_export.recipes import Dtype
from dia_models.checkpoint import CheckpointError
from dia_models.config import ConfigError
from dia_ort import __version__
from dia_ort.errors import DiaError
from dia_ort.manifest import MANIFEST_NAME, Attention

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)

_CTRL_C = 130
"""The exit code that typer gives to it."""


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    if wanted:
        typer.echo(f"dia-export {__version__}")
        raise typer.Exit


@app.command()
def run(
    *,
    model: Annotated[
        str, typer.Option(help=f"Hub id, folder or file, or {' or '.join(RANDOM_MODELS)}.")
    ] = DEFAULT_MODEL,
    codec: Annotated[
        str | None,
        typer.Option(help=f"The same for the DAC. Default: {DEFAULT_CODEC}; random as the model."),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="What the weights become: int4 or int8 for CPUs, fp16 for GPUs.")
    ] = "fp16",
    attention: Annotated[
        Attention,
        typer.Option(
            help="Operators of the text encoder and the decoder: onnxruntime's own, or only ONNX's "
            "standard ones, for CoreML and other providers."
        ),
    ] = "fused",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder to make. Default: MODEL-DTYPE(-standard), where dia-ort looks first."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of the model's hub id.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random weights.")] = 0,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="int4: round weights by what they are multiplied with, for which the decoder "
            "speaks some scripts, or each to its nearest level, sooner and in less memory.",
        ),
    ] = True,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Hold every graph against PyTorch.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder.")] = False,
    push_to: Annotated[
        str | None,
        typer.Option("--push-to-hub", metavar="REPO", help="Upload the folder to this hub repo."),
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Export a Dia checkpoint and its codec to ONNX graphs that dia-ort runs.

    Where --output is an exported model already and --push-to-hub is given, it is uploaded as it is.
    """
    if push_to and output and not force and (output / MANIFEST_NAME).is_file():
        folder = output
    else:
        with _Bars() as bars:
            result = export(
                model,
                codec,
                dtype=dtype,
                attention=attention,
                output=output,
                revision=revision,
                seed=seed,
                calibrate=calibrate,
                verify=verify,
                force=force,
                progress=bars.update,
            )
        folder = result.folder
        console.print(_table(result))
        if not verify:
            _say("Not verified (--no-verify): nothing was held against PyTorch.")
        _say(f"Wrote {folder}\nTry: dia-ort speak --model {folder} '[S1] Hello.'")
    if push_to:
        _say(f"Uploaded to {push_to_hub(folder, push_to)}")


def _say(text: str) -> None:
    """Print as it stands: what is in brackets may be a path or an extra, and lines may be long."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


class _Bars:
    """A progress bar for each stage of an export, on stderr."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
        )
        self._tasks: dict[str, TaskID] = {}
        self._interrupted = False

    def __enter__(self) -> Self:
        sys.unraisablehook = self._note_interrupt
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._tasks:  # else it would leave an empty line
            self._progress.stop()
        sys.unraisablehook = sys.__unraisablehook__

    def update(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is."""
        if self._interrupted:
            raise KeyboardInterrupt
        if stage not in self._tasks:
            self._progress.start()
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def _note_interrupt(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Remember a Ctrl-C that fell into a finalizer: it is lost there, and torch has many."""
        if unraisable.exc_type is KeyboardInterrupt:
            self._interrupted = True
        else:
            sys.__unraisablehook__(unraisable)


def _table(result: ExportResult) -> Table:
    table = Table("graph", *(("nodes", "MB", "seconds", "against PyTorch")))
    for report in result.reports:
        figures = ", ".join(f"{name} {value:.3g}" for name, value in report.figures.items())
        table.add_row(
            report.file,
            str(report.nodes),
            f"{report.size / 1e6:.1f}",
            f"{report.seconds:.1f}",
            figures or "not run",
        )
    return table


def main() -> None:
    """Run the command; a user's mistakes end in a message and exit code 1, or 2 for usage."""
    warnings.showwarning = lambda message, *_rest, **_more: _say(f"warning: {message}")
    try:
        app(prog_name="dia-export")
    except (DiaError, CheckpointError, ConfigError) as error:
        _say(f"dia-export: {error}")
        sys.exit(1)
    except SystemExit as leaving:
        if leaving.code == _CTRL_C:
            _say("dia-export: stopped; an unfinished export leaves nothing behind.")
        raise
