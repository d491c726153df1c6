"""Charts as SVG, readable on light and on dark pages."""

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _LEFT, _RIGHT, _TOP = 860, 150, 60, 84
_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999")
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 16px }
.page { fill: #ffffff }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.mark { stroke: #1f2328; stroke-width: 2; stroke-dasharray: 4 3; fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .page { fill: #0d1117 }
  .grid { stroke: #3d444d }
  .mark { stroke: #f0f6fc }
}"""

Rows = Mapping[str, Mapping[str, float]]


def stacked_bars(title: str, unit: str, rows: Rows, marks: Mapping[str, float], mark: str) -> str:
    """Horizontal bars of parts.

    Args:
        title: Of the chart.
        unit: Of its axis.
        rows: By the bar's name, its parts from left to right.
        marks: By the bar's name, where to draw a dashed line across it.
        mark: What the lines stand for.
    """
    bar, gap = 28, 14
    parts = list(dict.fromkeys(name for row in rows.values() for name in row))
    step = _tick(max(sum(row.values()) for row in rows.values()))
    top = step * math.ceil(max(sum(row.values()) for row in rows.values()) / step)
    bottom = _TOP + len(rows) * (bar + gap)

    def across(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / top

    body = []
    for index in range(round(top / step) + 1):
        at = across(index * step)
        body.append(_line(at, _TOP - 8, at, bottom, "grid"))
        body.append(_text(at, bottom + 18, _number(index * step), "middle"))
    body.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 40, unit, "middle"))
    for index, (name, row) in enumerate(rows.items()):
        y, start = _TOP + index * (bar + gap), 0.0
        body.append(_text(_LEFT - 10, y + bar / 2 + 4, name, "end"))
        for part, value in row.items():
            color = _COLORS[parts.index(part) % len(_COLORS)]
            width = across(start + value) - across(start)
            body.append(
                f'<rect x="{across(start):.1f}" y="{y}" width="{width:.1f}" height="{bar}" '
                f'fill="{color}"><title>{escape(part)}: {value:.2f}</title></rect>'
            )
            start += value
        body.append(_text(across(start) + 8, y + bar / 2 + 4, f"{start:.3g}", "start"))
        if name in marks:
            at = across(marks[name])
            body.append(_line(at, y - 5, at, y + bar + 5, "mark"))
    return _page(title, bottom + 56, [*_legend(parts, mark if marks else None), *body])


def lines(title: str, axes: tuple[str, str], series: Rows, mark: tuple[str, float]) -> str:
    """Lines over a logarithmic axis of counts.

    Args:
        title: Of the chart.
        axes: Names of the horizontal and the vertical one.
        series: By name, values by count (as text).
        mark: A dashed horizontal line: what it stands for, and where it is.
    """
    height, bottom = 300, _TOP + 300
    counts = sorted({int(count) for values in series.values() for count in values})
    most = max(mark[1], *(value for values in series.values() for value in values.values()))
    step = _tick(most)
    top = step * math.ceil(most / step)
    span = math.log2(counts[-1] / counts[0]) or 1.0

    def across(count: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log2(count / counts[0]) / span

    def up(value: float) -> float:
        return bottom - height * value / top

    body = []
    for index in range(round(top / step) + 1):
        y = up(index * step)
        body.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "grid"))
        body.append(_text(_LEFT - 10, y + 4, _number(index * step), "end"))
    body += [_text(across(count), bottom + 20, str(count), "middle") for count in counts]
    body.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 42, axes[0], "middle"))
    turn = f' transform="rotate(-90 60 {bottom - height / 2})"'
    body.append(_text(60, bottom - height / 2, axes[1], "middle", turn))
    for (_, values), color in zip(series.items(), _COLORS, strict=False):
        points = [(across(int(count)), up(value)) for count, value in values.items()]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2.5"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>' for x, y in points]
    body.append(_line(_LEFT, up(mark[1]), _WIDTH - _RIGHT, up(mark[1]), "mark"))
    return _page(title, bottom + 58, [*_legend(list(series), mark[0]), *body])


def _page(title: str, height: float, body: Sequence[str]) -> str:
    size = f"0 0 {_WIDTH} {height:.0f}"
    name = f'role="img" aria-label="{escape(title)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" {name}>',
            f"<style>{_STYLE}\n</style>",
            f'<rect class="page" width="{_WIDTH}" height="{height:.0f}" rx="6"/>',
            f'<text class="title" x="20" y="30">{escape(title)}</text>',
            *body,
            "</svg>\n",
        ]
    )


def _legend(names: Sequence[str], mark: str | None) -> list[str]:
    parts, x = [], 20.0
    for name, color in zip(names, _COLORS, strict=False):
        parts.append(f'<rect x="{x:.0f}" y="46" width="12" height="12" rx="2" fill="{color}"/>')
        parts.append(_text(x + 17, 57, name, "start"))
        x += 32 + 6.6 * len(name)
    if mark:
        parts.append(_line(x, 52, x + 20, 52, "mark"))
        parts.append(_text(x + 26, 57, mark, "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{name}"/>'


def _tick(most: float) -> float:
    """A round distance for about five ticks up to a value."""
    power: float = 10 ** math.floor(math.log10(most / 5))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= most)


def _number(value: float) -> str:
    return f"{value:.10g}"
