"""What the parts of a report come to: ratios, targets, and lines to print."""

from typing import Any

COMPILED = "transformers fp16, static and compiled"
"""transformers' fastest way, it is thought."""

TARGETS = {
    "one utterance, x real time": ("realtime", 12.0, "at least"),
    "one utterance over transformers' best": ("over_transformers", 3.0, "at least"),
    "first audio, s": ("first_audio_s", 0.1, "at most"),
    "64 utterances, x real time each": ("realtime_64", 1.0, "at least"),
    "audio, largest error": ("audio_error", 1e-3, "at most"),
}
"""Of the fp16 model on an H200: by name, the figure, its limit and which side of it is right."""


def summarize(parts: dict[str, Any]) -> dict[str, float]:
    """The figures that targets are about, as far as their parts were measured.

    Args:
        parts: By name, as :mod:`gpucheck.command` collects them.
    """
    figures: dict[str, float] = {}
    ours = [
        value
        for name, value in parts.items()
        if name.startswith("steps fp16") and isinstance(value, dict)
    ]
    for key, count in (("realtime", "1"), ("realtime_64", "64")):
        if found := [steps[count]["realtime"] for steps in ours if count in steps]:
            figures[key] = max(found)
    alone = [steps["1"]["step_ms"] for steps in ours if "1" in steps]
    theirs = {name: part["step_ms"] for name, part in parts.items() if "transformers" in name}
    if alone and COMPILED in theirs:  # their best is unknown without it
        figures["over_transformers"] = min(theirs.values()) / min(alone)
    if alone and "bandwidth" in parts and "decoder bytes fp16" in parts:
        size = parts["decoder bytes fp16"]["bytes"]
        figures["over_floor"] = min(alone) / (size / parts["bandwidth"]["gb_per_s"] / 1e6)
    if speech := [value for name, value in parts.items() if name.startswith("speech fp16")]:
        figures["first_audio_s"] = min(value["first_audio_s"] for value in speech)
    if "codec as it is" in parts:
        figures["audio_error"] = parts["codec as it is"]["max_error"]
    return figures


def targets(figures: dict[str, float]) -> list[dict[str, Any]]:
    """Each target, what was measured, and whether it is reached; None: not measured."""
    rows = []
    for name, (key, limit, side) in TARGETS.items():
        value = figures.get(key)
        reached = None
        if value is not None:
            reached = value >= limit if side == "at least" else value <= limit
        rows.append(
            {"target": name, "to_reach": f"{side} {limit:g}", "measured": value, "reached": reached}
        )
    return rows


def lines(report: dict[str, Any]) -> list[str]:
    """The report, for people."""
    text = [f"{report['date']}, {report['model']} on {report['provider']}"]
    for name, value in report["parts"].items():
        text.append(f"\n{name}")
        text += [f"  {key}: {_show(figure)}" for key, figure in value.items()]
    text += [f"\nFAILED {name}: {reason}" for name, reason in report["failures"].items()]
    text.append("\ntargets (H200, fp16)")
    for row in report["targets"]:
        state = {None: "not measured", True: "reached", False: "not reached"}[row["reached"]]
        text.append(f"  {row['target']}: {row['to_reach']}; {_show(row['measured'])}: {state}")
    return text


def _show(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_show(inner)}" for key, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
