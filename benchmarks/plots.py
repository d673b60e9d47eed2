"""Curves as inline SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

__all__ = ["residual_plot"]

COLOURS = ("#0b6e4f", "#c1272d", "#1f5fa8", "#b36b00", "#6b3fa0", "#00838f", "#8d5524", "#555555", "#d81b60", "#7a8b00")
WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 640, 320, 54, 40, 12  # of the picture and its margins, in its own units


def residual_plot(curves: Mapping[str, Sequence[float | None]], title: str) -> str:
    """Relative residuals against iterations, logarithmic, each with its name in a legend below; "" without curves.

    >>> residual_plot({"a": [1.0, 0.1]}, "t").count("<polyline")
    1
    """
    points = {name: logarithms(values) for name, values in curves.items()}
    points = {name: values for name, values in points.items() if len(values) > 1}
    if not points:
        return ""
    longest = max(k for values in points.values() for k, _ in values)
    exponents = [e for values in points.values() for _, e in values]
    low = math.floor(min(exponents))
    high = max(math.ceil(max(exponents)), low + 1)

    def place(k: float, exponent: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - EDGE) * (k - 1) / max(longest - 1, 1)
        return x, EDGE + (HEIGHT - BOTTOM - EDGE) * (high - exponent) / (high - low)

    lines, legend, ticks = "", "", ""
    for i, (name, values) in enumerate(points.items()):
        colour, dash = COLOURS[i % len(COLOURS)], "6 4" if i >= len(COLOURS) else ""
        path = " ".join("{:.1f},{:.1f}".format(*place(k, e)) for k, e in values)
        lines += f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        legend += f'<li><span style="background:{colour}"></span>{html.escape(name)}</li>'
    for e in range(low, high + 1, max(1, math.ceil((high - low) / 8))):
        y = place(1, e)[1]
        ticks += f'<line x1="{LEFT}" x2="{WIDTH - EDGE}" y1="{y:.1f}" y2="{y:.1f}" class="rule"/>'
        ticks += f'<text x="{LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">1e{e}</text>'
    for k in sorted({1, *(round(1 + (longest - 1) * f / 4) for f in range(1, 5))}):
        anchor = "end" if k == longest else "middle"  # so that the last number stays inside
        ticks += f'<text x="{place(k, low)[0]:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="{anchor}">{k}</text>'
    ticks += f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 4}" text-anchor="middle">iteration</text>'
    label = html.escape(title)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{ticks}{lines}</svg>'
        f'<ul class="legend">{legend}</ul><figcaption>{label}</figcaption></figure>'
    )


def logarithms(values: Sequence[float | None]) -> list[tuple[int, float]]:
    """Iteration and decimal logarithm of every residual that has one."""
    return [(k, math.log10(r)) for k, r in enumerate(values, 1) if r is not None and math.isfinite(r) and r > 0]
