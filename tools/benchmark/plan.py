"""Which measurements a run makes, and making them."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.apart import run_apart
from benchmark.settings import PRICE_BATCHES, Settings

TRANSFORMERS = {"transformers fp32": "float32", "transformers bf16": "bfloat16"}
"""What a decoder step is compared with: contestants, and torch's names of their dtypes."""
TORCH_DAC, OUR_DAC = "torch", "dia-ort"

Samples = dict[str, dict[str, list[dict[str, Any]]]]
"""By section and contestant: what each round measured, in figures or lists of them."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something to measure once a round.

    Attributes:
        section: Of the report.
        contestant: Whose figures they are.
        function: ``"module:name"``, called in a new process.
        arguments: For it.
        once: In the first round only.
    """

    section: str
    contestant: str
    function: str
    arguments: tuple[object, ...]
    once: bool = False


Arguments = tuple[object, ...]


def plan(
    settings: Settings,
    folders: Mapping[str, Path],
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]],
    cases: Mapping[str, Path],
) -> Iterator[Measurement]:
    """What a round measures, in order.

    Args:
        settings: Of the run.
        folders: The artifacts, by dtype.
        variants: Of the price list: by source and name, what ``prepare`` gave.
        cases: By source, where ``prepare`` wrote the cases.
    """
    ours: dict[str, Arguments] = {name: (settings, folder) for name, folder in folders.items()}
    yield Measurement("memory", "read", "benchmark.machine:read_bandwidth", (settings.threads,))
    if "step" in settings.parts:
        yield from _plan_references(settings)
        yield from _plan_each("step", "benchmark.ours:decoder_step", ours)
    if "causes" in settings.parts:
        yield from _plan_each("causes", "benchmark.causes:causes", ours, once=True)
    if "batch" in settings.parts:
        yield from _plan_each("batch", "benchmark.ours:batches", ours)
    first = next(iter(ours.values()))
    if "growth" in settings.parts:
        yield Measurement("growth", "text", "benchmark.ours:growth_by_text", first)
        yield Measurement("growth", "position", "benchmark.ours:growth_by_position", first)
    if "dac" in settings.parts:
        yield Measurement("dac", TORCH_DAC, "benchmark.reference_dac:dac_decode", (settings,))
        yield Measurement("dac", OUR_DAC, "benchmark.ours:dac_decode", first)
    if "speak" in settings.parts:
        for name, arguments in ours.items():
            function, once = "benchmark.ours:speak", arguments is not first
            yield Measurement("speak", name, function, arguments, once=once)
    if "serving" in settings.parts:
        yield from _plan_each("serving", "benchmark.serving:clients", ours, once=True)
    if "prices" in settings.parts:
        yield from _plan_prices(settings, variants, cases)


def _plan_references(settings: Settings) -> Iterator[Measurement]:
    for name in settings.references:
        arguments = (settings, TRANSFORMERS[name])
        yield Measurement("step", name, "benchmark.reference:decoder_step", arguments)


def _plan_each(
    section: str, function: str, contestants: Mapping[str, Arguments], *, once: bool = False
) -> Iterator[Measurement]:
    for name, arguments in contestants.items():
        yield Measurement(section, name, function, arguments, once=once)


def _plan_prices(
    settings: Settings,
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]],
    cases: Mapping[str, Path],
) -> Iterator[Measurement]:
    for source, made in variants.items():
        quality: dict[str, Arguments] = {
            name: (variant["decoder"], cases[source]) for name, variant in made.items()
        }
        section = f"quality {source}"
        yield from _plan_each(section, "benchmark.prices:measure_quality", quality, once=True)
    timed: dict[str, Arguments] = {
        name: (settings, variant["decoder"], PRICE_BATCHES)
        for name, variant in variants[settings.model].items()
    }
    yield from _plan_each("prices", "benchmark.decoding:batch_steps", timed)


def measure(measurements: list[Measurement], rounds: int) -> tuple[Samples, list[str]]:
    """Everything, round by round.

    Returns:
        The samples; and what failed. A contestant that fails is left out of all rounds.
    """
    samples: Samples = {}
    failures: dict[tuple[str, str], str] = {}
    for number in range(1, rounds + 1):
        for one in measurements:
            key = one.section, one.contestant
            if key in failures or (one.once and number > 1):
                continue
            note(f"round {number} of {rounds}: {one.section}, {one.contestant}")
            try:
                figures = run_apart(one.function, *one.arguments)
            except Exception as error:  # noqa: BLE001 - an hour's figures must outlive it
                failures[key] = f"{one.section}, {one.contestant}: {error!r}"
                note(f"failed: {failures[key]}")
                samples.get(one.section, {}).pop(one.contestant, None)
                continue
            samples.setdefault(one.section, {}).setdefault(one.contestant, []).append(figures)
    return samples, list(failures.values())


def note(text: str) -> None:
    """Say what is being done, beside the report."""
    print(text, file=sys.stderr, flush=True)
