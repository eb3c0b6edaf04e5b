"""Charts with intervals as SVG for a page: they take its colours, light and dark, and its width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH = 380  # units of a chart, about the pixels of a phone
LEFT, RIGHT = 56, 16  # margins of the plot
ROW = 34  # height of a row of dots: its name, and its interval below
HEIGHT = 230  # of a chart of curves
LONGEST = 58  # characters of a name
TICKS = 5  # about so many on an axis
APART = 3  # units between curves at one number of steps, so that their bars can be seen
LINES = (  # colours that most people can distinguish on white and on black, and dashes
    ("#0284c7", ""), ("#ea7317", "6 3"), ("#16a34a", "2 3"), ("#c026d3", "8 3 2 3"),
    ("#b45309", "1 2"), ("#64748b", "10 4"), ("#e11d48", "4 2"), ("#7c3aed", "3 5"),
)  # fmt: skip
CHART_STYLE = """
.charts { display: flex; flex-wrap: wrap; gap: 1.2rem 2rem; }
.chart { flex: 1 1 20rem; max-width: 38rem; min-width: 0; }
.chart svg { display: block; height: auto; width: 100%; }
.chart text { fill: currentColor; font-size: 11px; }
.chart .axis, .chart .reference { stroke: currentColor; stroke-width: .6; }
.chart .reference { stroke-dasharray: 3 3; }
.chart .grid { opacity: .2; stroke: currentColor; stroke-width: .6; }
.chart .baseline { color: inherit; opacity: .65; }
.chart .model { color: var(--accent); }
.chart .model text { fill: CanvasText; }
.chart .legend { display: flex; flex-wrap: wrap; font-size: .85rem; gap: .2rem 1rem; margin: .3rem 0 0;
  padding: 0; list-style: none; }
.chart .legend svg { display: inline; height: .6rem; vertical-align: baseline; width: 1.8rem; }
"""  # noqa: E501


class Point(NamedTuple):
    """A value with the ends of its 95 % interval, which are the value where none is known."""

    value: float
    low: float
    high: float


class Mark(NamedTuple):
    """A point of a curve: its x, its value, and a text beside it."""

    x: float
    point: Point
    text: str


class Dot(NamedTuple):
    """A row of a chart of dots: a name, its value, and whether it is a baseline's."""

    name: str
    point: Point
    is_baseline: bool


def dots(title: str, rows: Sequence[Dot]) -> str:
    """Each row's value as a dot on its interval, the rows below one another.

    Args:
        title: What the values are.
        rows: At least one.
    """
    bottom = ROW * len(rows) + 6
    axis = _Axis.over([each for row in rows for each in row.point], LEFT / 2, WIDTH - RIGHT)
    parts = [_vertical_grid(axis, bottom)]
    for number, (name, point, is_baseline) in enumerate(rows):
        y = ROW * number + 26
        left, middle, right = (axis.at(each) for each in (point.low, point.value, point.high))
        kind = "baseline" if is_baseline else "model"
        parts.append(
            f'<g class="{kind}"><title>{escape(name)}: {point.value:.4f} '
            f"({point.low:.4f} to {point.high:.4f})</title>"
            f'<text x="{LEFT / 2:g}" y="{y - 12}">{escape(_short(name))}</text>'
            f'<path d="M{left:.1f} {y}H{right:.1f}M{left:.1f} {y - 4}v8M{right:.1f} {y - 4}v8" '
            'fill="none" stroke="currentColor" stroke-width="1.6"/>'
            f'<circle cx="{middle:.1f}" cy="{y}" r="4" fill="currentColor"/></g>'
        )
    return _chart(title, bottom + 18, parts, "")


def by_steps(
    title: str,
    series: Mapping[str, Mapping[int, Point]],
    references: Mapping[str, float],
    score: str,
) -> str:
    """Curves over the number of sampling steps, doubled at equal distances.

    Args:
        title: What the curves are of.
        series: Points by their number of steps, by the curve's name; at least one.
        references: Values that have no number of steps, by name, as dashed lines.
        score: What the values are.
    """
    marks = {math.log2(x): str(x) for points in series.values() for x in points}
    across = _Axis(min(marks), max(marks), LEFT + 6 + APART * len(series) / 2, WIDTH - RIGHT)
    shift = APART * ((max(marks) - min(marks)) or 1) / (across.end - across.start)
    curves = {
        name: [
            Mark(math.log2(x) + shift * (number - (len(series) - 1) / 2), point, "")
            for x, point in sorted(points.items())
        ]
        for number, (name, points) in enumerate(series.items())
    }
    return _curves(title, curves, references, across, marks, ("sampling steps", score))


def by_timestep(title: str, series: Mapping[str, Mapping[int, Point]], score: str) -> str:
    """Curves over the timesteps of the diffusion, from noise on the left to the sample.

    Args:
        title: What the curves are of.
        series: Points by timestep, by the curve's name; at least one.
        score: What the values are.
    """
    timesteps = [t for points in series.values() for t in points]
    first, last = max(timesteps), min(timesteps)
    across = _Axis(first, last, LEFT + 6, WIDTH - RIGHT)
    round_ones = _Axis(last, first, 0, 1).ticks() if last < first else [first]
    curves = {
        name: [Mark(t, points[t], "") for t in sorted(points, reverse=True)]
        for name, points in series.items()
    }
    ticks = {tick: f"{tick:g}" for tick in round_ones}
    return _curves(title, curves, {}, across, ticks, ("timestep, from noise to the sample", score))


def trade_off(title: str, series: Mapping[str, Sequence[Mark]], axis_names: tuple[str, str]) -> str:
    """Curves of one score over another, through marks in their order.

    Args:
        title: What the curves are of.
        series: Marks by the curve's name; at least one.
        axis_names: What x and the values are.
    """
    across = _Axis.over([m.x for marks in series.values() for m in marks], LEFT + 6, WIDTH - RIGHT)
    ticks = {tick: f"{tick:g}" for tick in across.ticks()}
    return _curves(title, series, {}, across, ticks, axis_names)


def _curves(
    title: str,
    series: Mapping[str, Sequence[Mark]],
    references: Mapping[str, float],
    across: _Axis,
    ticks: Mapping[float, str],
    axis_names: tuple[str, str],
) -> str:
    """Curves with bars for the intervals, a legend, and values as dashed lines."""
    ys = [each for marks in series.values() for mark in marks for each in mark.point]
    up = _Axis.over([*ys, *references.values()], HEIGHT - 34, 8)
    parts = [
        f'<path class="grid" d="M{LEFT} {up.at(tick):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 4}" y="{up.at(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in up.ticks()
    ]
    parts += [
        f'<text x="{across.at(x):.1f}" y="{HEIGHT - 18}" text-anchor="middle">{tick}</text>'
        for x, tick in ticks.items()
    ]
    x_name, y_name = map(escape, axis_names)
    parts += [
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{x_name}</text>',
        f'<text transform="translate(11 {HEIGHT / 2 - 14:g}) rotate(-90)" '
        f'text-anchor="middle">{y_name}</text>',
    ]
    for name, value in references.items():
        y = up.at(value)
        parts.append(
            f'<path class="reference" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{WIDTH - RIGHT}" y="{y - 3:.1f}" text-anchor="end">{escape(name)}</text>'
        )
    legend = []
    for number, (name, marks) in enumerate(series.items()):
        colour, dashes = LINES[number % len(LINES)]
        placed = [(across.at(x), point, text) for x, point, text in marks]
        line = "L".join(f"{x:.1f} {up.at(point.value):.1f}" for x, point, _ in placed)
        bars = "".join(
            f"M{x:.1f} {up.at(point.low):.1f}V{up.at(point.high):.1f}" for x, point, _ in placed
        )
        stroke = f'fill="none" stroke="{colour}" stroke-width="1.8"'
        dashed = f'{stroke} stroke-dasharray="{dashes}"'
        circles = "".join(
            f'<circle cx="{x:.1f}" cy="{up.at(point.value):.1f}" r="3" fill="{colour}"/>'
            f'<text x="{x + 5:.1f}" y="{up.at(point.value) - 5:.1f}">{escape(text)}</text>'
            for x, point, text in placed
        )
        parts.append(
            f'<g><title>{escape(name)}</title><path d="M{line}" {dashed}/>'
            f'<path d="{bars}" {stroke}/>{circles}</g>'
        )
        legend.append(
            f'<li><svg viewBox="0 0 30 8"><path d="M0 4h30" {dashed}/></svg> {escape(name)}</li>'
        )
    return _chart(title, HEIGHT, parts, f'<ul class="legend">{"".join(legend)}</ul>')


class _Axis(NamedTuple):
    """Values from `low` to `high` at the units from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        """All the values, and a little more."""
        low, high = min(values), max(values)
        margin = 0.04 * (high - low) or 0.5
        return cls(low - margin, high + margin, start, end)

    def at(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values: one, two or five times a power of ten apart."""
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(number * step, 10) for number in range(first, last + 1)]


def _vertical_grid(axis: _Axis, bottom: float) -> str:
    return "".join(
        f'<path class="grid" d="M{axis.at(tick):.1f} 0V{bottom}"/>'
        f'<text x="{axis.at(tick):.1f}" y="{bottom + 12}" text-anchor="middle">{tick:g}</text>'
        for tick in axis.ticks()
    )


def _chart(title: str, height: float, parts: Sequence[str], legend: str) -> str:
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>{legend}</figure>\n"
    )


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
