"""A report as tables, for the terminal and for Markdown."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.causes import CAUSES, OTHER
from benchmark.plan import TRANSFORMERS
from benchmark.settings import (
    CACHED_POSITIONS,
    FULL,
    PREFILL_STEPS,
    PRICE_BATCHES,
    ROWS,
    TEXT_POSITIONS,
)
from benchmark.summary import Spread, Summary, series_point

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text.

    Attributes:
        name: Of its place in the documents.
        title: What it shows.
        header: One cell per column; the first column names the rows.
        rows: Of as many cells.
    """

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]

    def text(self) -> str:
        """Aligned columns, the first to the left and the others to the right."""
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = (
            "  ".join(
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )
        return "\n".join([self.title, *(f"  {line}" for line in aligned)])

    def markdown(self) -> str:
        """A table of Markdown under its title."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = (f"| {' | '.join(cells)} |" for cells in (self.header, rule, *self.rows))
        return "\n".join([f"{self.title}:", "", *lines])


def heading(report: Report, summary: Summary) -> list[str]:
    """What was run, on what, with which versions."""
    settings, machine = report["settings"], report["machine"]
    run = f"{settings['model']}, rounds: {settings['rounds']}, steps: {settings['steps']}"
    size = f"{machine['physical_cores']} cores, {machine['memory_gb']:.0f} GB"
    rates = f"reads {summary['read_gb_per_s']:.1f} GB/s"
    if "gflops" in summary:
        rates += f", multiplies {summary['gflops']:.0f} GFLOP/s (float32, torch)"
    lines = [
        f"{run}, threads: {settings['threads'] or 'default'}, {report['date']}",
        f"{machine['cpu']}, {size}, {rates}, load average {machine['load_average']:.1f}",
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        "Figures are medians (lowest-highest round).",
    ]
    if machine["load_average"] > machine["physical_cores"] / 2:
        lines.append("The machine was busy with something else: measure again when it is idle.")
    return lines + [f"Failed: {failure}" for failure in report["failures"]]


def tables(report: Report, summary: Summary) -> Iterator[Table]:
    """Those of all parts that were measured."""
    for section, make in _MAKERS.items():
        if summary.get(section):
            yield from make(report, summary)
    if report["exports"]:
        rows = [
            [name, f"{figures['seconds']:.0f}", f"{figures['peak_rss_gb']:.2f}"]
            for name, figures in report["exports"].items()
        ]
        yield Table("exports", "Exports, without the gate", ["", "seconds", "peak GB"], rows)
    if report["settings"]["model"] == FULL and report["targets"]:
        yield _target_table(report["targets"])


def _step_tables(report: Report, summary: Summary) -> Iterator[Table]:
    steps = summary["step"]
    speeds = [f"speed over {reference}" for reference in TRANSFORMERS if reference in steps]
    rows = [
        [
            name,
            _show(figures["step_ms"], 1),
            f"{1e3 / figures['step_ms']['median']:.2f}",
            *(_show(figures.get(speed), 2) for speed in speeds),
            f"{figures['prefill_s']['median']:.1f}",
            f"{figures['peak_rss_gb']['max']:.2f}",
        ]
        for name, figures in steps.items()
    ]
    place = f"{CACHED_POSITIONS} cached positions, {TEXT_POSITIONS} text positions"
    header = ["", "ms a step", "steps/s", *speeds, "s to fill the cache", "peak GB"]
    yield Table("step", f"Decoder step of one utterance ({ROWS} rows), {place}", header, rows)
    floors = report["floors"]
    rows = [
        [
            dtype,
            *(f"{size / 1e6:.0f}" for size in floors[dtype].values()),
            f"{figures['floor_ms']:.2f}",
            f"{figures['graph_ms']['median']:.2f}",
            _show(figures["outside_ms"], 2),
            f"{figures['over_floor']:.2f}",
        ]
        for dtype, figures in steps.items()
        if "floor_ms" in figures
    ]
    header = ["", "weights MB", "cache MB", "text MB", "floor ms"]
    header += ["graph ms", "Python and NumPy ms", "step / floor"]
    if rows:
        title = "The step's floor: the bytes it must read, over the bandwidth"
        yield Table("floor", title, header, rows)


def _causes_tables(_report: Report, summary: Summary) -> Iterator[Table]:
    rows = [
        [dtype, *(f"{figures[cause]['median']:.2f}" for cause in (*CAUSES, OTHER))]
        for dtype, figures in summary["causes"].items()
    ]
    yield Table("causes", "The graph's kernels, ms a step", ["", *CAUSES, OTHER], rows)


def _batch_tables(_report: Report, summary: Summary) -> Iterator[Table]:
    batch = summary["batch"]
    rows = []
    for count, ratio in summary["best"].items():
        cells = [str(count)]
        for figures in batch.values():
            step_ms = figures[f"step_ms@{count}"]["median"]
            cells += [f"{1e3 * count / step_ms:.1f}", f"{step_ms:.1f}"]
        rows.append([*cells, _show(ratio, 2)])
    columns = [cell for dtype in batch for cell in (f"{dtype} frames/s", "ms a step")]
    header = ["utterances", *columns, "best over best of 1"]
    title = "Utterances at once: frames a second of all together, sampling included"
    yield Table("batch", title, header, rows)


def _growth_tables(report: Report, summary: Summary) -> Iterator[Table]:
    dtype = report["settings"]["dtypes"][0]
    for axis, of, figure, column in (
        ("text", "text positions", "encoder_s", "text encoder, s"),
        ("position", "audio positions", "prefill_s", f"{PREFILL_STEPS} steps of a voice, s"),
    ):
        figures = summary["growth"].get(axis, {})
        points = [n for key in figures if (n := series_point(key, "step_ms")) is not None]
        rows = [
            [
                str(point),
                _show(figures[f"step_ms@{point}"], 1),
                f"{figures[f'{figure}@{point}']['median']:.2f}",
            ]
            for point in points
        ]
        title = f"How cost grows with {of}, {dtype}, one utterance"
        yield Table(f"growth-{axis}", title, [of, "ms a step", column], rows)


def _dac_tables(_report: Report, summary: Summary) -> Iterator[Table]:
    rows = [
        [
            name,
            _show(figures["seconds_per_second"], 3),
            _show(figures.get("speed over torch"), 2),
            f"{figures['over_floor']:.2f}" if "over_floor" in figures else "",
            f"{figures['peak_rss_gb']['max']:.2f}",
        ]
        for name, figures in summary["dac"].items()
    ]
    title = "DAC decode, float32"
    if "dac_floor" in summary:
        title += f"; its floor is {summary['dac_floor']:.3f} s per second of audio"
    header = ["", "s per second of audio", "speed over torch", "time / floor", "peak GB"]
    yield Table("dac", title, header, rows)


def _speak_tables(report: Report, summary: Summary) -> Iterator[Table]:
    rows = [
        [
            name,
            _show(figures["first_step_s"], 2),
            f"{figures['steps_s']['median']:.2f}",
            f"{figures['whole_s']['median']:.2f}",
            _show(figures["speed"], 3),
            f"{figures['peak_rss_gb']['max']:.2f}",
            f"{figures['peak_anonymous_gb']['max']:.2f}" if "peak_anonymous_gb" in figures else "",
        ]
        for name, figures in summary["speak"].items()
    ]
    header = ["", "s to the first step", "steps, s", "whole, s", "s of audio per second"]
    header += ["peak GB", "of it not files, GB"]
    frames = report["settings"]["speak_frames"]
    yield Table("speak", f"dia-ort speak as a whole, {frames} frames", header, rows)


def _serving_tables(report: Report, summary: Summary) -> Iterator[Table]:
    serving = summary["serving"]
    keys = ("first_audio_s", "last_first_audio_s", "speed")
    rows = [
        [
            str(count),
            *(_show(figures[f"{key}@{count}"], 2) for figures in serving.values() for key in keys),
        ]
        for count in report["settings"]["clients"]
    ]
    columns = ("s to the first audio, median", "at most", "s of audio per second, all together")
    header = ["clients", *(f"{dtype}: {column}" for dtype in serving for column in columns)]
    frames = report["settings"]["serve_frames"]
    title = f"Clients of the server that ask at the same moment, {frames} frames each"
    yield Table("serving", title, header, rows)


def _price_tables(report: Report, summary: Summary) -> Iterator[Table]:
    model = report["settings"]["model"]
    sources = [source for source in report["variants"] if f"quality {source}" in summary]
    rows = []
    for name, variant in report["variants"][model].items():
        figures = summary["prices"].get(name, {})
        cells = [f"{name} (default)" if variant["is_default"] else name]
        cells.append(f"{variant['size_gb']:.3f}")
        cells += [_show(figures.get(f"step_ms@{count}"), 1) for count in PRICE_BATCHES]
        for source in sources:
            quality = summary[f"quality {source}"].get(name)
            cells.append(f"{quality['kl']['median']:.2g}" if quality else "")
            cells.append(f"{quality['overlap']['median']:.1%}" if quality else "")
        rows.append(cells)
    header = ["decoder", "GB", *(f"ms a step of {count}" for count in PRICE_BATCHES)]
    for source in sources:
        weights = "random" if source == model else "trained"
        header += [f"KL, {weights}", f"top-45 overlap, {weights}"]
    yield Table("prices", "The price list, against fp32 over the same contexts", header, rows)


_MAKERS: dict[str, Callable[[Report, Summary], Iterator[Table]]] = {
    "step": _step_tables,
    "causes": _causes_tables,
    "batch": _batch_tables,
    "growth": _growth_tables,
    "dac": _dac_tables,
    "speak": _speak_tables,
    "serving": _serving_tables,
    "prices": _price_tables,
}
"""By section of the summary."""


def _target_table(targets: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            target["name"],
            f"{'at most' if target['is_limit'] else 'at least'} {target['to_reach']}",
            f"{target['measured']:.2f}",
            "yes" if target["reached"] else "no",
        ]
        for target in targets
    ]
    return Table("targets", "Targets", ["", "to reach", "measured", "reached"], rows)


def _show(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return ""
    middle, low, high = (f"{spread[key]:.{digits}f}" for key in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low}-{high})"
