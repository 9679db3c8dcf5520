"""Training curves as SVG to stand in a page: without text of its own but for ticks, in the colours of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from srum_plugins.errors import ContractError

SERIES = 8
"""How many colours the page has for lines; they repeat after that."""
POINTS = 400  # of a line; a run may have many thousand steps
_INK = "#010203"  # stands for the page's own colour of text until the SVG is written
_NOT_SHOWN = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)


def smoothed(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """The running mean of values (n,) and its window w, a twentieth of n: (n - w + 1,) means, each of w values."""
    window = max(1, len(values) // 20)
    return np.convolve(values, np.ones(window) / window, mode="valid"), window


def curve_svg(lines: Sequence[tuple[Sequence[float], Sequence[float]]], name: str) -> str:
    """One chart of (steps, values) lines as an ``<svg>`` element. Each line is its running mean; of a single line the
    values are shown too, in light. ``name`` keeps the ids of several charts of one page apart, and is not shown.

    Raises:
        ContractError: there is no line, or one has no point or not as many steps as values.
    """
    if not lines or any(len(steps) != len(values) or not len(steps) for steps, values in lines):
        raise ContractError(f"a chart needs lines of as many steps as values, and at least one: {name!r}")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure = Figure(figsize=(3.4, 2.0))
        axes = figure.add_axes((0.17, 0.14, 0.81, 0.82))
        for index, (at, values) in enumerate(lines):
            colour = _placeholder(index % SERIES)
            steps, exact = np.asarray(at, float), np.asarray(values, float)
            means, window = smoothed(exact)
            if len(lines) == 1 and window > 1:
                axes.plot(*_thinned(steps, exact), color=colour, linewidth=0.8, alpha=0.35)
            marker = "." if len(exact) == 1 else ""
            axes.plot(*_thinned(steps[window - 1 :], means), color=colour, linewidth=1.6, marker=marker)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.ticklabel_format(axis="y", useOffset=False, style="plain")
        axes.tick_params(colors=_INK, labelsize=8, length=2.5)
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(_INK)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _in_page(buffer.getvalue().decode())


def _thinned(steps: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """At most :data:`POINTS` points, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), POINTS)).round().astype(int))
    return steps[chosen], values[chosen]


def _placeholder(index: int) -> str:
    return f"#0a0b{index:02d}"


def _in_page(svg: str) -> str:
    """The element alone, with no size, background or style of its own, in colours that the page defines."""
    svg = _NOT_SHOWN.sub("", svg[svg.index("<svg") :])
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # several charts would have the same ids
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r" font-family: [^;\"]*;", "", svg).replace(_INK, "currentColor")
    for index in range(SERIES):
        svg = svg.replace(_placeholder(index), f"var(--line-{index})")
    return re.sub(r"\s*\n\s*", "\n", svg).replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
