"""From raw samples to figures, and from figures to a table."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmark.settings import (
    CACHED_POSITIONS,
    DAC_FRAMES,
    FULL,
    ROWS,
    SPEAK_FRAMES,
    TEXT_POSITIONS,
)

REFERENCES = ("transformers fp32", "transformers bf16")
TORCH_DAC, OUR_DAC = "torch", "dia-ort"
TARGETS = (
    ("fp32", "transformers fp32", 3.5),
    ("int8", "transformers bf16", 2.2),
    ("int4", "transformers bf16", 4.5),
)
"""How many times a reference's steps per second each dtype is to reach, at full size."""

_STEP_TITLE = (
    f"Decoder step: one utterance ({ROWS} rows), {CACHED_POSITIONS} cached positions, "
    f"{TEXT_POSITIONS} text positions"
)

Spread = dict[str, float]
"""``median``, ``min`` and ``max`` over the rounds; a round counts with its median."""
Samples = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""By section and contestant: what each round measured."""


def summarize(samples: Samples, weight_bytes: Mapping[str, int]) -> dict[str, Any]:
    """Figures of every contestant.

    Ratios are taken round by round, so that both sides of one met the same machine.

    Args:
        samples: The raw ones.
        weight_bytes: That a step reads, by dtype.
    """
    bandwidth = max(round_["gb_per_s"] for round_ in samples["memory"]["read"])
    steps = {name: _spreads(rounds) for name, rounds in samples["decoder_step"].items()}
    for dtype, size in weight_bytes.items():
        floor_ms = size / bandwidth / 1e6
        steps[dtype] |= {
            "weight_gb": size / 1e9,
            "floor_ms": floor_ms,
            "over_floor": steps[dtype]["step_ms"]["median"] / floor_ms,
        }
        for reference in REFERENCES:
            steps[dtype][f"speed_over_{reference}"] = _ratio(
                samples["decoder_step"], reference, dtype, "step_ms"
            )
    dac = {name: _spreads(rounds) for name, rounds in samples["dac_decode"].items()}
    dac[OUR_DAC]["speed_over_torch"] = _ratio(
        samples["dac_decode"], TORCH_DAC, OUR_DAC, "seconds_per_second"
    )
    return {
        "read_gb_per_s": bandwidth,
        "decoder_step": steps,
        "dac_decode": dac,
        "speak": {name: _spreads(rounds) for name, rounds in samples["speak"].items()},
    }


def targets(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The targets whose dtypes were measured, each with what was reached."""
    steps = summary["decoder_step"]
    return [
        {
            "dtype": dtype,
            "reference": reference,
            "to_reach": wanted,
            "measured": steps[dtype][f"speed_over_{reference}"]["median"],
        }
        for dtype, reference, wanted in TARGETS
        if dtype in steps
    ]


def render(report: Mapping[str, Any]) -> str:
    """The whole report as text."""
    summary = report["summary"]
    lines = [
        *_heading(report),
        "",
        _STEP_TITLE,
        *_table(*_step_rows(summary["decoder_step"])),
        "",
        "Its parts. Outside: loop, sampling, binding; floor: reading the weights once",
        *_table(*_cause_rows(summary["decoder_step"])),
        "",
        f"DAC decode of {DAC_FRAMES} frames",
        *_table(*_dac_rows(summary["dac_decode"])),
        "",
        f"Load, and speak {SPEAK_FRAMES} frames",
        *_table(*_speak_rows(summary["speak"])),
    ]
    if report["exports"]:
        lines += ["", "Exports made for this run", *_table(*_export_rows(report["exports"]))]
    if report["settings"]["model"] == FULL:
        lines += ["", "Targets, in steps per second"]
        lines += [
            f"  {t['dtype']} over {t['reference']}: to reach {t['to_reach']}, "
            f"measured {t['measured']:.2f}"
            for t in report["targets"]
        ]
    return "\n".join(lines)


def _heading(report: Mapping[str, Any]) -> list[str]:
    settings, machine = report["settings"], report["machine"]
    run = f"{settings['model']}, rounds: {settings['rounds']}, steps: {settings['steps']}"
    cores = f"{machine['cpu']}, {machine['physical_cores']} cores, {machine['memory_gb']:.0f} GB"
    bandwidth = f"reads {report['summary']['read_gb_per_s']:.1f} GB/s"
    lines = [
        f"{run}, threads: {settings['threads'] or 'default'}, {report['date']}",
        f"{cores}, {bandwidth}, load average {machine['load_average']:.1f} at the start",
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        "Figures are medians (lowest-highest round).",
    ]
    if machine["load_average"] > machine["physical_cores"] / 2:
        lines.append("The machine was busy with something else: measure again when it is idle.")
    return lines


def _step_rows(steps: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["", "ms a step", "steps/s", *(f"x {reference}" for reference in REFERENCES)]
    rows = [
        [
            name,
            _show(figures["step_ms"], 2),
            f"{1e3 / figures['step_ms']['median']:.1f}",
            *(
                "" if name in REFERENCES else _show(figures[f"speed_over_{reference}"], 2)
                for reference in REFERENCES
            ),
            f"{figures['prefill_s']['median']:.2f}",
            f"{figures['peak_rss_gb']['max']:.2f}",
        ]
        for name, figures in steps.items()
    ]
    return [*header, "prefill s", "peak GB"], rows


def _cause_rows(steps: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            name,
            f"{figures['graph_ms']['median']:.2f}",
            f"{figures['outside_ms']['median']:.2f}",
            f"{figures['weight_gb']:.3f}",
            f"{figures['floor_ms']:.2f}",
            f"{figures['over_floor']:.2f}",
        ]
        for name, figures in steps.items()
        if name not in REFERENCES
    ]
    return ["", "graph ms", "outside ms", "weights GB", "floor ms", "step / floor"], rows


def _dac_rows(dac: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            name,
            _show(figures["seconds_per_second"], 3),
            _show(figures["speed_over_torch"], 2) if "speed_over_torch" in figures else "",
            f"{figures['peak_rss_gb']['max']:.2f}",
        ]
        for name, figures in dac.items()
    ]
    return ["", "s per second of audio", "x torch", "peak GB"], rows


def _speak_rows(speak: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            name,
            _show(figures["load_s"], 2),
            f"{figures['audio_s']['median'] / figures['speak_s']['median']:.2f}",
            f"{figures['peak_rss_gb']['max']:.2f}",
        ]
        for name, figures in speak.items()
    ]
    return ["", "load s", "s of audio per second", "peak GB"], rows


def _export_rows(exports: Mapping[str, Spread]) -> tuple[list[str], list[list[str]]]:
    rows = [[n, f"{f['seconds']:.1f}", f"{f['peak_rss_gb']:.2f}"] for n, f in exports.items()]
    return ["", "seconds", "peak GB"], rows


def _spreads(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: _spread(_round_median(round_[key]) for round_ in rounds) for key in rounds[0]}


def _ratio(
    section: Mapping[str, Sequence[Mapping[str, Any]]], reference: str, ours: str, key: str
) -> Spread:
    """How many times as fast as the reference, from the times under ``key``."""
    pairs = zip(section[reference], section[ours], strict=True)
    return _spread(_round_median(a[key]) / _round_median(b[key]) for a, b in pairs)


def _round_median(value: float | list[float]) -> float:
    return median(value) if isinstance(value, list) else value


def _spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values)
    return {"median": median(ordered), "min": ordered[0], "max": ordered[-1]}


def _show(spread: Spread, digits: int) -> str:
    middle, low, high = (f"{spread[key]:.{digits}f}" for key in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low}-{high})"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Aligned columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
