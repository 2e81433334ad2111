"""A result as a card for notebooks, in plain HTML with a small SVG figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

SpectrumRows = Sequence[tuple[float, float, bool]]
"""For each index: the singular value, its residual, and whether it converged."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 340, 150, 52, 10, 10, 26
_POINTS = 160  # more would not be told apart at this width
_DOTS = 30  # up to so many values have dots of their own
_DECADES = 12  # that the axis shows at most
_INK, _WARNING, _GOOD = "#3f86d0", "#c2410c", "#2f7d3a"


def card(
    heading: str, mark: str, certified: bool, rows: Sequence[tuple[str, str]], figure: str
) -> str:
    """Return a card: a coloured mark and a heading, rows of numbers, and beside them a figure.

    All texts are escaped; the figure is HTML.

    >>> "1 &lt; 2" in card("1 < 2", "certified", True, [("σ₁", "3")], "")
    True
    """
    colour = _GOOD if certified else _WARNING
    cells = "".join(
        "<tr style='background:none'>"
        f"<td style='text-align:left;padding:1px 14px 1px 0;opacity:.7'>{escape(name)}</td>"
        f"<td style='text-align:left;padding:1px 0'>{escape(value)}</td></tr>"
        for name, value in rows
    )
    return (
        "<div style='font-size:13px;line-height:1.45;max-width:820px'>"
        "<div style='margin:2px 0 6px'>"
        f"<span style='background:{colour};color:#fff;border-radius:3px;padding:1px 7px;"
        f"margin-right:8px'>{escape(mark)}</span><b>{escape(heading)}</b></div>"
        "<div style='display:flex;flex-wrap:wrap;gap:22px;align-items:flex-start'>"
        f"<table style='border:none;border-collapse:collapse;margin:0;"
        f"color:inherit;font-size:inherit'>{cells}</table>"
        f"<div>{figure}</div></div></div>"
    )


def spectrum_figure(spectra: Sequence[SpectrumRows], first: int = 1) -> str:
    """Return an SVG of spectra against their index, on a logarithmic axis; "" if all values are 0.

    A band reaches from σ − residual to σ + residual; values that are not certified are dots.

    Args:
        spectra: One line each.
        first: Index of the first value.

    >>> spectrum_figure([[(2.0, 0.0, True), (1.0, 0.0, True)]]).startswith("<svg")
    True
    """
    values = [value for spectrum in spectra for value, _, _ in spectrum]
    high = max(values)
    if not 0 < high < math.inf:
        return ""
    top = math.log10(high)
    bottom = math.log10(min(value for value in values if value > high * 10**-_DECADES))
    margin = 0.06 * max(top - bottom, 0.1)
    top, bottom = top + margin, bottom - margin
    count = max(len(spectrum) for spectrum in spectra)

    def x(index: int) -> float:
        share = index / (count - 1) if count > 1 else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        log = bottom if value <= 0 else min(top, max(bottom, math.log10(value)))
        return _TOP + (top - log) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)

    opacity = 1.0 if len(spectra) == 1 else 0.45
    drawn = "".join(_line(spectrum, x, y, opacity) for spectrum in spectra)
    base = _HEIGHT - _BOTTOM
    axes = (
        f"<path d='M{_LEFT} {_TOP}V{base}H{_WIDTH - _RIGHT}' fill='none' stroke='currentColor' "
        "stroke-opacity='.5'/>"
    )
    for at, label in _ticks(bottom, top):
        axes += (
            f"<path d='M{_LEFT - 4} {y(at):.1f}h4' stroke='currentColor' stroke-opacity='.5'/>"
            f"<text x='{_LEFT - 7}' y='{y(at) + 4:.1f}' text-anchor='end'>{label}</text>"
        )
    for index in sorted({0, count - 1}):
        anchor = "end" if index else "start"
        axes += f"<text x='{x(index):.1f}' y='{base + 15}' text-anchor='{anchor}'>"
        axes += f"{'i = ' if not index else ''}{first + index}</text>"
    return (
        f"<svg width='{_WIDTH}' height='{_HEIGHT}' viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' "
        "aria-label='singular values by index, logarithmic' font-size='11' fill='currentColor' "
        f"font-family='sans-serif'>{axes}{drawn}</svg>"
    )


def _line(
    spectrum: SpectrumRows, x: Callable[[int], float], y: Callable[[float], float], opacity: float
) -> str:
    """Return the band, the line and the dots of one spectrum."""
    step = max(1, math.ceil(len(spectrum) / _POINTS))
    shown = [*range(0, len(spectrum) - 1, step), len(spectrum) - 1]
    upper = [f"{x(i):.1f} {y(spectrum[i][0] + spectrum[i][1]):.1f}" for i in shown]
    lower = [f"{x(i):.1f} {y(spectrum[i][0] - spectrum[i][1]):.1f}" for i in reversed(shown)]
    line = [f"{x(i):.1f} {y(spectrum[i][0]):.1f}" for i in shown]
    drawn = (
        f"<path d='M{' L'.join([*upper, *lower])}Z' fill='{_INK}' fill-opacity='.25'/>"
        f"<path d='M{' L'.join(line)}' fill='none' stroke='{_INK}' "
        f"stroke-width='1.6' stroke-opacity='{opacity}'/>"
    )
    for i in shown:
        missed = not spectrum[i][2]
        if missed or (opacity == 1 and len(spectrum) <= _DOTS) or len(spectrum) == 1:
            colour = _WARNING if missed else _INK
            at = f"cx='{x(i):.1f}' cy='{y(spectrum[i][0]):.1f}'"
            drawn += f"<circle {at} r='2.2' fill='{colour}'/>"
    return drawn


def _ticks(bottom: float, top: float) -> list[tuple[float, str]]:
    """Return at most five values on the axis between two logarithms, with their labels."""
    low, high = math.ceil(bottom), math.floor(top)
    if high > low:
        step = max(1, math.ceil((high - low) / 4))
        return [(10.0**power, f"{10.0**power:g}") for power in range(low, high + 1, step)]
    ends = [10 ** (bottom + share * (top - bottom)) for share in (0.08, 0.92)]
    return [(value, f"{value:.3g}") for value in ends]
