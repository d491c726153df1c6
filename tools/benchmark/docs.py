"""Writes tables and charts into a Markdown document, between its markers.

A place is ``<!-- bench:NAME -->`` to ``<!-- /bench -->``; what was not measured stays as it is.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.causes import CAUSES, OTHER
from benchmark.charts import lines, stacked_bars
from benchmark.plan import TRANSFORMERS
from benchmark.settings import FRAMES_PER_SECOND
from benchmark.summary import Summary, series_point
from benchmark.tables import heading, tables

STEP_CHART, BATCH_CHART = "step-time.svg", "throughput.svg"
_PLACE = re.compile(r"(<!-- bench:([\w-]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def write_docs(path: Path, report: Mapping[str, Any], summary: Summary) -> None:
    """Bring a document's measured places up to date, and put the charts beside it."""
    places = {table.name: table.markdown() for table in tables(report, summary)}
    places["run"] = "\n".join(f"- {line}" for line in heading(report, summary))

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}\n{places[name]}\n\n{end}" if name in places else match.group()

    text = path.read_text(encoding="utf-8")
    path.write_text(_PLACE.sub(fill, text), encoding="utf-8")
    if summary.get("causes"):
        (path.parent / STEP_CHART).write_text(_step_chart(summary), encoding="utf-8")
    if summary.get("batch"):
        (path.parent / BATCH_CHART).write_text(_batch_chart(summary), encoding="utf-8")


def _step_chart(summary: Summary) -> str:
    steps = summary.get("step", {})
    rows = {}
    for dtype, figures in summary["causes"].items():
        parts = {cause: figures[cause]["median"] for cause in (*CAUSES, OTHER)}
        if dtype in steps:  # what the profile leaves: between the kernels, and Python
            rest = steps[dtype]["step_ms"]["median"] - sum(parts.values())
            parts[OTHER] += max(rest, 0.0)
        rows[dtype] = parts
    for name in TRANSFORMERS:
        if name in steps:
            rows[name] = {"whole step": steps[name]["step_ms"]["median"]}
    marks = {dtype: f["floor_ms"] for dtype, f in steps.items() if "floor_ms" in f}
    title = "Where a decoder step's time goes, one utterance"
    return stacked_bars(title, "milliseconds a step", rows, marks, "bandwidth floor")


def _batch_chart(summary: Summary) -> str:
    series = {
        dtype: {
            str(count): 1e3 * count / figures[key]["median"]
            for key in figures
            if (count := series_point(key, "step_ms")) is not None
        }
        for dtype, figures in summary["batch"].items()
    }
    title = "Throughput by utterances at once"
    axes = "utterances at once", "frames a second, all together"
    return lines(title, axes, series, ("real time for one", FRAMES_PER_SECOND))
