"""Plots as SVG text, whose classes get their colours from the page's style, so that they follow its theme.

Small on purpose: lines over two axes and bars, with nothing that needs a script or a library to be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Final

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 84, 206, 14, 44
# As many as the style has colours for; who has more lines draws two plots.
COLOURS: Final = 8
BAR_HEIGHT, BAR_GAP = 20, 8

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Axis:
    """`label` says the unit; a logarithmic axis takes no value of 0 or less."""

    label: str
    is_logarithmic: bool = False
    text: Callable[[float], str] = "{:g}".format


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    value: float
    text: str
    # Of those whose bars belong together; ours is 0.
    colour: int


def line_plot(lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Every line has a point at least, and its values suit the axes."""
    assert lines
    assert len(lines) <= COLOURS
    across = _Scale.over([point[0] for line in lines for point in line.points], x, LEFT, WIDTH - RIGHT)
    up = _Scale.over([point[1] for line in lines for point in line.points], y, HEIGHT - BOTTOM, TOP)
    parts = [*_grid(across, up, x, y)]
    for place, line in enumerate(lines):
        points = " ".join(f"{across.at(a):.1f},{up.at(b):.1f}" for a, b in line.points)
        parts.append(f'<polyline class="line c{place}" points="{points}"/>')
        parts += [
            f'<circle class="dot c{place}" cx="{across.at(a):.1f}" cy="{up.at(b):.1f}" r="2.5">'
            f"<title>{escape(line.name)}: {escape(x.text(a))}, {escape(y.text(b))}</title></circle>"
            for a, b in line.points
        ]
        legend_y = TOP + 12 + 20 * place
        parts.append(
            f'<rect class="bar c{place}" x="{WIDTH - RIGHT + 16}" y="{legend_y - 9}" width="10" height="10"/>'
        )
        parts.append(f'<text x="{WIDTH - RIGHT + 32}" y="{legend_y}">{escape(line.name)}</text>')
    return _svg(HEIGHT, parts)


def bar_plot(bars: Sequence[Bar], label: str) -> str:
    """Bars from zero, each with its value beside it."""
    assert bars
    left, right = 200, 110
    longest = max(bar.value for bar in bars) or 1.0
    height = len(bars) * (BAR_HEIGHT + BAR_GAP) + 34
    parts = [f'<text class="label" x="{left}" y="14">{escape(label)}</text>']
    for place, bar in enumerate(bars):
        y = 24 + place * (BAR_HEIGHT + BAR_GAP)
        width = bar.value / longest * (WIDTH - left - right)
        parts += [
            f'<text class="end" x="{left - 8}" y="{y + 14}">{escape(bar.name)}</text>',
            _rectangle(bar, left, y, max(width, 1.0)),
            f'<text x="{left + width + 8:.1f}" y="{y + 14}">{escape(bar.text)}</text>',
        ]
    return _svg(height, parts)


def _rectangle(bar: Bar, x: float, y: float, width: float) -> str:
    return f'<rect class="bar c{bar.colour}" x="{x}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}"/>'


@dataclass(frozen=True, slots=True)
class _Scale:
    """Values to pixels."""

    low: float
    high: float
    first_px: float
    last_px: float
    is_logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float], axis: Axis, first_px: float, last_px: float) -> _Scale:
        low, high = min(values), max(values)
        if axis.is_logarithmic:
            assert low > 0, axis.label
            low, high = 10 ** floor(log10(low)), 10 ** ceil(log10(high))
            if low == high:
                high = low * 10
        else:
            low, high = min(low, 0.0), _round_up(high)
        return cls(low, high, first_px, last_px, axis.is_logarithmic)

    def at(self, value: float) -> float:
        if self.is_logarithmic:
            share = log10(value / self.low) / log10(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.first_px + share * (self.last_px - self.first_px)

    def ticks(self) -> list[float]:
        if self.is_logarithmic:
            return [10.0**power for power in range(round(log10(self.low)), round(log10(self.high)) + 1)]
        return [self.low + (self.high - self.low) * step / 5 for step in range(6)]


def _round_up(value: float) -> float:
    """To 1, 2 or 5 of its first digit, so that a fifth of it is a number that people read."""
    if value <= 0:
        return 1.0
    power: float = 10 ** floor(log10(value))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= value)


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> list[str]:
    parts: list[str] = []
    for tick in across.ticks():
        at = across.at(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="middle" x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}">{escape(x.text(tick))}</text>'
        )
    for tick in up.ticks():
        at = up.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{at + 4:.1f}">{escape(y.text(tick))}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="middle label" x="{middle}" y="{HEIGHT - 6}">{escape(x.label)}</text>')
    parts.append(
        f'<text class="middle label" transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">'
        f"{escape(y.label)}</text>"
    )
    return parts


def _svg(height: int, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'
