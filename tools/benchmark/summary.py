"""From raw samples to figures, ratios and targets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmark.plan import OUR_DAC, TORCH_DAC, TRANSFORMERS

Spread = dict[str, float]
"""``median``, ``min`` and ``max`` over the rounds; a round counts with its median."""
Summary = dict[str, Any]
"""By section and contestant, spreads by figure; see :func:`summarize`."""


def summarize(report: Mapping[str, Any]) -> Summary:
    """Figures of every contestant, from a report's samples.

    Ratios are taken round by round, so that both sides of one met the same machine.

    Returns:
        The sections of the samples, each figure as a spread. Besides, ``step`` has floors and
        ratios of every dtype, ``dac`` the same, and ``best`` how many times as many frames a
        second come out at so many utterances as at one, each with its best dtype.
    """
    samples = report["samples"]
    summary: Summary = {
        section: {name: _spreads(rounds) for name, rounds in contestants.items()}
        for section, contestants in samples.items()
    }
    summary["read_gb_per_s"] = summary["memory"]["read"]["gb_per_s"]["max"]
    _compare_steps(summary, samples, report["floors"])
    _compare_dac(summary, samples, report["dac_gflop"])
    summary["best"] = _best_batches(samples)
    return summary


def _compare_steps(
    summary: Summary, samples: Mapping[str, Any], floors: Mapping[str, Mapping[str, int]]
) -> None:
    for dtype, figures in summary.get("step", {}).items():
        if dtype not in floors:
            continue
        figures["floor_ms"] = sum(floors[dtype].values()) / summary["read_gb_per_s"] / 1e6
        figures["over_floor"] = figures["step_ms"]["median"] / figures["floor_ms"]
        for reference in TRANSFORMERS.keys() & samples["step"].keys():
            figures[f"speed over {reference}"] = _ratio(
                samples["step"], reference, dtype, "step_ms"
            )


def _compare_dac(summary: Summary, samples: Mapping[str, Any], gflop: float) -> None:
    dac = summary.get("dac", {})
    if OUR_DAC in dac and TORCH_DAC in dac:
        key = "seconds_per_second"
        dac[OUR_DAC]["speed over torch"] = _ratio(samples["dac"], TORCH_DAC, OUR_DAC, key)
    if TORCH_DAC in dac:
        summary["gflops"] = dac[TORCH_DAC]["gflops"]["max"]
        summary["dac_floor"] = gflop / summary["gflops"]
        for figures in dac.values():
            seconds = figures["seconds_per_second"]["median"]
            figures["over_floor"] = seconds / summary["dac_floor"]


def _best_batches(samples: Mapping[str, Any]) -> dict[int, Spread]:
    dtypes = list(samples.get("batch", {}).values())
    if not dtypes:
        return {}
    counts = [n for key in dtypes[0][0] if (n := series_point(key, "step_ms")) is not None]

    def speeds(count: int) -> list[float]:
        """Frames a millisecond of the best dtype, round by round."""
        key = f"step_ms@{count}"
        return [max(count / median(r[key]) for r in rounds) for rounds in zip(*dtypes, strict=True)]

    single = speeds(counts[0])
    return {
        count: _spread(a / b for a, b in zip(speeds(count), single, strict=True))
        for count in counts
    }


def series_point(key: str, name: str) -> int | None:
    """N of a figure called ``name@N``; None of another's."""
    before, _, after = key.partition("@")
    return int(after) if after and before == name else None


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be reached at full size.

    Attributes:
        name: What it is about.
        to_reach: The figure.
        path: Where it is in a summary.
        is_limit: Whether less is better.
        extreme: Which figure of a spread counts.
    """

    name: str
    to_reach: float
    path: tuple[object, ...]
    is_limit: bool = False
    extreme: str = "median"


_BF16 = "transformers bf16"
TARGETS = (
    Target("int4 steps/s over transformers bf16", 5.5, ("step", "int4", f"speed over {_BF16}")),
    Target(
        "int4 step over its bandwidth floor", 1.2, ("step", "int4", "over_floor"), is_limit=True
    ),
    Target("int8 steps/s over transformers bf16", 3.0, ("step", "int8", f"speed over {_BF16}")),
    Target("frames/s of 8 utterances over 1", 2.2, ("best", 8)),
    Target("frames/s of 16 utterances over 1", 2.7, ("best", 16)),
    Target("DAC decode over torch", 1.3, ("dac", OUR_DAC, "speed over torch")),
    Target("Python and NumPy, ms a step", 0.5, ("step", "int4", "outside_ms"), is_limit=True),
    Target("int4 speak, s of audio per second", 0.48, ("speak", "int4", "speed")),
    Target(
        "int4 speak, peak GB", 1.3, ("speak", "int4", "peak_rss_gb"), is_limit=True, extreme="max"
    ),
    Target(
        "int4 speak, s to the first step", 0.7, ("speak", "int4", "first_step_s"), is_limit=True
    ),
)


def targets(summary: Summary) -> list[dict[str, Any]]:
    """Those of which the figure was measured: ``name``, ``to_reach``, ``measured``, ``reached``."""
    rows = []
    for target in TARGETS:
        value: Any = summary
        for key in target.path:
            value = value.get(key, {})
        if value == {}:
            continue
        measured = value[target.extreme] if isinstance(value, dict) else value
        reached = measured <= target.to_reach if target.is_limit else measured >= target.to_reach
        rows.append(
            {
                "name": target.name,
                "to_reach": target.to_reach,
                "is_limit": target.is_limit,
                "measured": measured,
                "reached": reached,
            }
        )
    return rows


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
