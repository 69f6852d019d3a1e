"""Plot growth rows as one SVG: logarithmic panels with a dashed line for linear growth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.row import Row

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 250, 220, 46, 34, 40
_OURS, _PLAIN, _GUIDE = "#0b6e99", "#8a8a8a", "#c9c9c9"


def draw(rows: Sequence[Row]) -> str:
    """Return the plot of all rows that have points, side by side."""
    panels = [_panel(row, number * _WIDTH) for number, row in enumerate(rows)]
    width = _WIDTH * len(rows)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" '
            f'width="{width}" font-family="sans-serif" font-size="11">',
            f'<rect width="{width}" height="{_HEIGHT}" fill="#fff"/>',
            *panels,
            "</svg>\n",
        ]
    )


def _panel(row: Row, x: int) -> str:
    sizes, ours, plain = row.points
    seconds = [*ours, *plain]
    low, high = min(seconds) / 1.3, max(*seconds, ours[0] * sizes[-1] / sizes[0]) * 1.3

    def at(size: float, second: float) -> tuple[float, float]:
        across = math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0])
        up = math.log(second / low) / math.log(high / low)
        tall = _HEIGHT - _TOP - _BOTTOM
        return x + _LEFT + across * (_WIDTH - _LEFT - 20), _TOP + (1 - up) * tall

    guide = [at(size, ours[0] * size / sizes[0]) for size in (sizes[0], sizes[-1])]
    lines = [_line(guide, _GUIDE, ' stroke-dasharray="4 3"')]
    lines += [_line([at(*p) for p in zip(sizes, plain, strict=True)], _PLAIN)] if plain else []
    lines += [_line([at(*p) for p in zip(sizes, ours, strict=True)], _OURS)]
    title = row.measure.partition(":")[0]
    parts = [_text(x + _LEFT, 16, title, "start", ' font-weight="bold"'), *lines]
    for size, second in zip(sizes, ours, strict=True):
        across, up = at(size, second)
        parts.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3" fill="{_OURS}"/>')
        parts.append(_text(across, up - 7, _seconds(second), "middle"))
        parts.append(_text(across, _HEIGHT - _BOTTOM + 18, f"{size:g}", "middle"))
    legend = f"exponent {row.reached:.2f}" + ("; grey: the plain model" if plain else "")
    parts.append(_text(x + _LEFT, _HEIGHT - 6, legend, "start", f' fill="{_PLAIN}"'))
    return "\n".join(parts)


def _line(points: Sequence[tuple[float, float]], colour: str, more: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{more}/>'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    attributes = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {attributes}{more}>{escape(text)}</text>"


def _seconds(seconds: float) -> str:
    number, unit = (seconds, "s") if seconds >= 1 else (seconds * 1e3, "ms")
    return f"{number:.{0 if number >= 10 else 1}f} {unit}"
