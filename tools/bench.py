"""Measure dia-ort against transformers and torch on this machine, everything in one run.

    python tools/bench.py                        # tiny random weights, under a minute
    python tools/bench.py --model full-random    # the 1.6B model with random weights

Needs the `export` extra and the `dev` group. Every measurement runs in a process of its own, one
after another, and the rounds take turns over all contestants: a noisy neighbour hits all alike.
Absolute times move from machine to machine; the ratios are what counts. On the tiny model they
count for nothing: that form shows that the tool works, and what a step costs outside its weights.

Prints a table; `--json` keeps it with every raw sample. Never fails on a slow figure.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.apart import run_apart
from benchmark.artifacts import ensure_artifact, weight_bytes
from benchmark.machine import describe_machine, versions
from benchmark.report import OUR_DAC, REFERENCES, TORCH_DAC, render, summarize, targets
from benchmark.settings import FULL, TINY, Settings

DTYPES = ("fp32", "fp16", "bf16", "int8", "int4")
DEFAULT_DTYPES = {TINY: "int4", FULL: "int4,int8,fp32"}
DEFAULT_STEPS = {TINY: 30, FULL: 40}
DEFAULT_ROUNDS = {TINY: 1, FULL: 3}
TORCH_DTYPES = {"transformers fp32": "float32", "transformers bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something to measure once a round.

    Attributes:
        section: Of the report.
        contestant: Whose figure it is.
        function: ``"module:name"``, called in a new process.
        arguments: For it.
    """

    section: str
    contestant: str
    function: str
    arguments: tuple[object, ...]


def main() -> None:
    settings, artifacts, output = parse_arguments(sys.argv[1:])
    machine = describe_machine()
    folders, exports = {}, {}
    for dtype in settings.dtypes:
        note(f"export {settings.model} {dtype}")
        folders[dtype], figures = ensure_artifact(artifacts, settings.model, dtype)
        if figures:
            exports[dtype] = figures
    samples = measure(list(plan(settings, folders)), settings.rounds)
    sizes = {dtype: weight_bytes(folder) for dtype, folder in folders.items()}
    summary = summarize(samples, sizes)
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "versions": versions(),
        "settings": asdict(settings),
        "summary": summary,
        "targets": targets(summary),
        "exports": exports,
        "samples": samples,
    }
    if output:
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(render(report))


def parse_arguments(arguments: list[str]) -> tuple[Settings, Path, Path | None]:
    """The settings, where exports are kept, and where the JSON goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=(TINY, FULL), default=TINY)
    parser.add_argument("--dtypes", help=f"of {','.join(DTYPES)}")
    parser.add_argument("--steps", type=positive, help="decoder steps to time each round")
    parser.add_argument("--rounds", type=positive, help="over all contestants")
    parser.add_argument(
        "--artifacts",
        type=Path,
        default=Path(tempfile.gettempdir()) / "dia-ort-bench",
        help="where exports are kept for the next run (full-random in three dtypes: 10 GB)",
    )
    parser.add_argument("--json", type=Path, help="where to write the report with all samples")
    parser.add_argument("--threads", type=positive, help="default: the physical cores")
    options = parser.parse_args(arguments)
    dtypes = tuple(dict.fromkeys((options.dtypes or DEFAULT_DTYPES[options.model]).split(",")))
    if unknown := [dtype for dtype in dtypes if dtype not in DTYPES]:
        parser.error(f"--dtypes has {', '.join(map(repr, unknown))}: take of {', '.join(DTYPES)}.")
    settings = Settings(
        model=options.model,
        dtypes=dtypes,
        steps=options.steps or DEFAULT_STEPS[options.model],
        rounds=options.rounds or DEFAULT_ROUNDS[options.model],
        threads=options.threads,
    )
    return settings, options.artifacts, options.json


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def plan(settings: Settings, folders: dict[str, Path]) -> Iterator[Measurement]:
    """What one round measures, in order."""
    yield Measurement("memory", "read", "benchmark.machine:read_bandwidth", (settings.threads,))
    for name in REFERENCES:
        yield Measurement(
            "decoder_step",
            name,
            "benchmark.reference:decoder_step",
            (settings, TORCH_DTYPES[name]),
        )
    for dtype, folder in folders.items():
        ours = (settings, folder)
        yield Measurement("decoder_step", dtype, "benchmark.ours:decoder_step", ours)
        yield Measurement("speak", dtype, "benchmark.ours:speak", ours)
    yield Measurement("dac_decode", TORCH_DAC, "benchmark.reference:dac_decode", (settings,))
    ours = (settings, next(iter(folders.values())))  # the codec is the same in every dtype
    yield Measurement("dac_decode", OUR_DAC, "benchmark.ours:dac_decode", ours)


def measure(measurements: list[Measurement], rounds: int) -> dict[str, dict[str, list[Any]]]:
    """Everything, round by round: samples by section and contestant."""
    samples: dict[str, dict[str, list[Any]]] = {}
    for number in range(1, rounds + 1):
        for one in measurements:
            note(f"round {number} of {rounds}: {one.section}, {one.contestant}")
            contestants = samples.setdefault(one.section, {})
            contestants.setdefault(one.contestant, []).append(
                run_apart(one.function, *one.arguments)
            )
    return samples


def note(text: str) -> None:
    """Say what is being done, beside the table."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
