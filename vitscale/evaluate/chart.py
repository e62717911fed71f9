"""Charts that take their colours from the page, so that they are readable in the light and in the dark."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[int, float]]

_WIDTH, _HEIGHT = 460, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 24, 10, 28
_MOST = 500
"""Points drawn of a line; of more every so-manieth, and the last."""


@dataclass(frozen=True)
class Marks:
    """Steps at which the run was started again, and at which it had gone back to a commit."""

    restarts: Sequence[int] = ()
    rewinds: Sequence[int] = ()


def line_chart(
    lines: Mapping[str, Points],
    marks: Marks = Marks(),
    steps: tuple[int, int] | None = None,
) -> str:
    """An SVG of one or several lines over steps, with ticks, marks, and the last value of each line.

    Args:
        lines: (step, value) pairs by the name of their line.
        marks: drawn across all lines.
        steps: the first and the last that are shown; those of the lines by default.
    """
    drawn = {name: _thinned(_finite(points)) for name, points in lines.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return '<p class="absent">not measured</p>'
    scale = _Scale.of([point for points in drawn.values() for point in points], steps)
    parts = [*_grid(scale), *_vertical(scale, marks)]
    for number, (name, points) in enumerate(drawn.items()):
        path = " ".join(f"{scale.x(step):.1f},{scale.y(value):.1f}" for step, value in points)
        title = f"<title>{html.escape(name)}: {points[-1][1]:.6g} at step {points[-1][0]:,}</title>"
        kind = f"line line-{number % 6}"
        if len(points) > 1:
            parts.append(f'<polyline class="{kind}" points="{path}">{title}</polyline>')
        step, value = points[-1]
        at = f'cx="{scale.x(step):.1f}" cy="{scale.y(value):.1f}"'
        parts.append(f'<circle class="dot dot-{number % 6}" {at} r="3">{title}</circle>')
    body = "".join(parts)
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}">{body}</svg>{_legend(drawn)}'


def intervals(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Points with their intervals below each other, in percent: (name, value, low, high), each in 0..1.

    No SVG, so that names can stand above their points where the page is narrow.
    """
    parts = []
    for name, value, low, high in rows:
        left, right, at = (100 * max(0.0, min(1.0, part)) for part in (low, high, value))
        title = f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        parts.append(
            f'<span class="name">{html.escape(name)}</span><div class="track" title="{title}">'
            f'<i class="span" style="left: {left:.2f}%; width: {right - left:.2f}%"></i>'
            f'<i class="point" style="left: {at:.2f}%"></i></div>'
        )
    ticks = "".join(f'<span style="left: {n}%">{n} %</span>' for n in range(0, 101, 25))
    return f'<div class="intervals">{"".join(parts)}<div class="ticks">{ticks}</div></div>'


@dataclass(frozen=True)
class _Scale:
    """From steps and values to places in the picture."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def of(cls, points: Points, shown: tuple[int, int] | None = None) -> _Scale:
        steps, values = zip(*points, strict=True)
        steps = shown or steps
        low, high = min(values), max(values)
        pad = (high - low or abs(high) or 1.0) * 0.05
        return cls(min(steps), max(steps), low - pad, high + pad)

    def x(self, step: float) -> float:
        whole = self.last - self.first
        share = (step - self.first) / whole if whole else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _grid(scale: _Scale) -> list[str]:
    parts = []
    for value in _round_values(scale.low, scale.high):
        y = scale.y(value)
        ends = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line class="grid" {ends}/>')
        parts.append(
            f'<text class="value" x="{_LEFT - 6}" y="{y + 3.5:.1f}">{_label(value)}</text>'
        )
    for step in _round_values(scale.first, scale.last, 4):
        x = scale.x(step)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 8}">{_short(step)}</text>')
    return parts


def _vertical(scale: _Scale, marks: Marks) -> list[str]:
    """Lines at restarts and rewinds."""
    parts = []
    for kind, steps in (("restart", marks.restarts), ("rewind", marks.rewinds)):
        for step in steps:
            if scale.first <= step <= scale.last:
                x = f"{scale.x(step):.1f}"
                ends = f'x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
                title = f"<title>{kind} at step {step:,}</title>"
                parts.append(f'<line class="{kind}" {ends}>{title}</line>')
    return parts


def _legend(lines: Mapping[str, Points]) -> str:
    if len(lines) < 2:
        return ""
    items = [
        f'<span class="key key-{number % 6}">{html.escape(name)}</span>'
        for number, name in enumerate(lines)
    ]
    return f'<div class="legend">{"".join(items)}</div>'


def _round_values(low: float, high: float, wanted: int = 4) -> list[float]:
    """About `wanted` values with one or two digits between the two."""
    rough = (high - low) / wanted or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda size: abs(math.log(size / rough)))
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _label(value: float) -> str:
    """Four digits, in not more than eight letters."""
    text = f"{value:.4g}"
    if len(text) <= 7:
        return text
    digits, _, power = f"{value:.3e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def _short(step: float) -> str:
    return f"{step / 1000:g}k" if step >= 10_000 else f"{step:g}"


def _finite(points: Points) -> list[tuple[int, float]]:
    return [(step, value) for step, value in sorted(points) if math.isfinite(value)]


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    every = -(-len(points) // _MOST) if points else 1
    return points[:-1:every] + points[-1:]
