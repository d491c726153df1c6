"""The command line of tools/demo_voice: the stages, one after the other."""

import argparse
import shutil
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from demo_voice import stages
from demo_voice.faster import keep_memory
from demo_voice.stages import Folders, Recipe

STAGES = {
    "record": stages.record_clips,
    "codec": stages.train_codec,
    "encode": stages.encode_clips,
    "model": stages.train_dia,
    "export": stages.export_all,
    "evaluate": stages.evaluate_all,
}
"""In order; each needs those before it."""


def main() -> None:
    options = parse_arguments(sys.argv[1:])
    if not shutil.which("espeak-ng"):
        sys.exit("espeak-ng is not installed, and it says all the sentences: apt install espeak-ng")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:  # torch's own classes, by build
        sys.exit(f"PyTorch has no --device {options.device} here: {error}")
    recipe = options.recipe()
    folders = Folders(options.folder, options.device)
    if fault := stages.claim(folders, recipe):
        sys.exit(fault)
    if options.device == "cpu":
        keep_memory()
    else:
        torch.set_float32_matmul_precision("high")  # TF32
    last = list(STAGES).index(options.until)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        tasks = {name: progress.add_task(name, total=None, start=False) for name in STAGES}
        for name in list(STAGES)[: last + 1]:
            progress.start_task(tasks[name])
            started = time.monotonic()
            STAGES[name](
                recipe,
                folders,
                lambda done, of, task=tasks[name]: progress.update(task, completed=done, total=of),
            )
            console.print(f"{name}: {(time.monotonic() - started) / 60:.1f} min")
    if options.install:
        stages.install(folders, Path(__file__).parents[2])


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tools/demo_voice",
        description="Train the demonstration model, from nothing to figures, on a GPU; a CPU would "
        "take many hours, and has --quick. Stopped, it goes on from where it was; a stage whose "
        "outcome is in the folder is not run again.",
    )
    parser.add_argument("--folder", type=Path, default=Path("build/demo-voice"))
    parser.add_argument("--device", default="cpu", help="PyTorch's, such as cuda (default: cpu)")
    parser.set_defaults(recipe=Recipe)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--quick",
        dest="recipe",
        action="store_const",
        const=Recipe.quick,
        help="the recipe for a CPU, which makes more mistakes: about two hours on two cores",
    )
    sizes.add_argument(
        "--large",
        dest="recipe",
        action="store_const",
        const=Recipe.large,
        help="370 words and wider networks, for a GPU",
    )
    parser.add_argument("--until", choices=STAGES, default="evaluate", help="the last stage to run")
    parser.add_argument(
        "--install",
        action="store_true",
        help="put the int8 model into the package as `demo`, and its figures into docs/demo-voice",
    )
    options = parser.parse_args(arguments)
    if options.install and options.recipe is not Recipe:
        parser.error("--install is for the package's own recipe: leave --quick and --large out")
    if options.install and options.until != "evaluate":
        parser.error("--install needs all stages: leave --until out")
    return options
