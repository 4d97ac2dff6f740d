"""Line charts as inline SVG: they scale, follow the page's light or dark colours, and need no library to show."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 54, 20, 14, 36  # room for tick labels around the plot
MOST_POINTS = 600  # beyond the pixels of the plot more points only make the file large

Piece = list[tuple[float, float]]  # a stretch of a line without a gap, as points


@dataclass(frozen=True)
class Series:
    """One line. x, y: equally many numbers; a y that is not finite leaves a gap. style: "primary" or "secondary".

    sampled: the x are places that were looked at, such as held-out frames: a step over more than the usual distance
    leaves a gap too, since nothing is known of what lies between.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "primary"
    sampled: bool = False

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.name!r}: {len(self.x)} x values but {len(self.y)} y values")


def line_chart(title: str, x_label: str, unit: str, series: Sequence[Series], note: str = "") -> Markup:
    """A titled chart of one or two series as an HTML figure; empty markup when no series holds a finite point."""
    pieces = [(one, _thinned(_pieces(one))) for one in series]
    shown = [_joined(one, parts) for one, parts in pieces if parts]
    if not shown:
        return Markup("")
    low, high = min(min(s.x) for s in shown), max(max(s.x) for s in shown)
    x_ticks, x_range = ticks(low, high, 6), (low, high)
    y_ticks = ticks(min(min(s.y) for s in shown), max(max(s.y) for s in shown), 4, outward=True)
    y_range = y_ticks[0], y_ticks[-1]
    to_x, to_y = _axis(*x_range, LEFT, WIDTH - RIGHT), _axis(*y_range, HEIGHT - BOTTOM, TOP)
    body = [_grid(x_ticks, y_ticks, to_x, to_y, x_range, x_label)]
    for one, parts in pieces:
        for part in parts:
            points = [f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in part]
            # A line from a point to itself shows as a dot.
            text = " ".join(points if len(points) > 1 else 2 * points)
            body.append(Markup('<polyline class="line {}" points="{}"/>').format(one.style, text))
    body.append(Markup('<g class="cursor"><line y1="{}" y2="{}"/></g>').format(TOP, HEIGHT - BOTTOM))
    frame = {"left": LEFT, "right": WIDTH - RIGHT, "x0": x_range[0], "x1": x_range[1], "label": x_label, "unit": unit}
    lines = [{"name": s.name, "x": [_short(x) for x in s.x], "y": [_short(y) for y in s.y]} for s in shown]
    return Markup(
        '<figure class="chart" data-chart="{data}"><figcaption><b>{title}</b>{legend}<span class="note">{note}</span>'
        '<output></output></figcaption><svg viewBox="0 0 {w} {h}" role="img" aria-label="{title}">{body}</svg></figure>'
    ).format(
        data=json.dumps(frame | {"series": lines}),
        title=f"{title}, {unit}" if unit else title,
        legend=_legend(shown),
        note=note,
        w=WIDTH,
        h=HEIGHT,
        body=Markup("").join(body),
    )


def ticks(low: float, high: float, about: int, outward: bool = False) -> list[float]:
    """Round numbers (steps of 1, 2, 2.5 or 5 times a power of ten) inside [low, high], roughly `about` of them.

    outward: with one more at each end, so that the range is covered.
    """
    if high <= low:
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if outward:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's label: 12000 as 12k, no trailing zeros."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.6g}"


def _pieces(one: Series) -> list[Piece]:
    """The stretches of a line between its gaps."""
    x, y = list(one.x), list(one.y)
    steps = sorted(b - a for a, b in pairwise(x))
    longest = 1.5 * steps[len(steps) // 2] if one.sampled and steps else math.inf
    pieces: list[Piece] = [[]]
    for at, value in zip(x, y, strict=True):
        if pieces[-1] and (not math.isfinite(value) or at - pieces[-1][-1][0] > longest):
            pieces.append([])
        if math.isfinite(value):
            pieces[-1].append((at, value))
    return [piece for piece in pieces if piece]


def _thinned(pieces: list[Piece]) -> list[Piece]:
    """At most `MOST_POINTS`, or one a piece: means over runs of neighbours, which also calms a training curve."""
    run = math.ceil(sum(map(len, pieces)) / MOST_POINTS)
    if run <= 1:
        return pieces
    return [[_mean(piece[i : i + run]) for i in range(0, len(piece), run)] for piece in pieces]


def _mean(points: Piece) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _joined(one: Series, pieces: list[Piece]) -> Series:
    points = [point for piece in pieces for point in piece]
    return replace(one, x=[x for x, _ in points], y=[y for _, y in points])


class _axis:  # noqa: N801 - used like a function
    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self.low, self.start = low, start
        self.scale = (stop - start) / (high - low) if high > low else 0.0

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) * self.scale


def _grid(
    x_ticks: list[float], y_ticks: list[float], to_x: _axis, to_y: _axis, x_range: tuple[float, float], x_label: str
) -> Markup:
    parts = []
    for y in y_ticks:
        at = to_y(y)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, at, at)
        )
        parts.append(Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 7, at + 4, number(y)))
    for x in x_ticks:
        if x_range[0] <= x <= x_range[1]:
            parts.append(
                Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                    to_x(x), HEIGHT - BOTTOM + 16, number(x)
                )
            )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 4, x_label)
    )
    return Markup("").join(parts)


def _legend(series: Sequence[Series]) -> Markup:
    if len(series) == 1:
        return Markup("")
    return Markup("").join(Markup('<span class="key {}">{}</span>').format(s.style, escape(s.name)) for s in series)


def _short(value: float) -> float:
    return float(f"{value:.5g}")
