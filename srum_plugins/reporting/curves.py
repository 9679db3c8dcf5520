"""Charts as SVG to stand in a page: without text of their own but for ticks, in the colours of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from srum_plugins.errors import ContractError
from srum_plugins.stats import Interval

SERIES = 8
"""How many colours the page has for lines; after that they repeat, in another of :data:`DASHES`."""
DASHES = ("-", "--", ":")
"""How lines are drawn, as matplotlib says it."""
POINTS = 400  # of a line; a run may have many thousand steps
_INK = "#010203"  # stands for the page's own colour of text until the SVG is written
_NOT_SHOWN = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)


def smoothed(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """The running mean of values (n,) and its window w, a twentieth of n: (n - w + 1,) means, each of w values."""
    window = max(1, len(values) // 20)
    return np.convolve(values, np.ones(window) / window, mode="valid"), window


def curve_svg(lines: Sequence[tuple[Sequence[float], Sequence[float]]], name: str) -> str:
    """One chart of (steps, values) lines as an ``<svg>`` element. Each line is its running mean; of a single line the
    values are shown too, in light; one without points only keeps its colour. ``name`` keeps the ids of several charts
    of one page apart, and is not shown.

    Raises:
        ContractError: there is no point, or a line has not as many steps as values.
    """
    drawn = sum(len(steps) > 0 for steps, _ in lines)
    if not drawn or any(len(steps) != len(values) for steps, values in lines):
        raise ContractError(f"a chart needs lines of as many steps as values, and at least one point: {name!r}")

    def draw(axes: Axes) -> None:
        for index, (at, values) in enumerate(lines):
            if not len(at):
                continue
            colour, dash = _placeholder(index % SERIES), DASHES[dash_of(index)]
            steps, exact = np.asarray(at, float), np.asarray(values, float)
            means, window = smoothed(exact)
            if drawn == 1 and window > 1:
                axes.plot(*_thinned(steps, exact), color=colour, linewidth=0.8, alpha=0.35)
            marker = "." if len(exact) == 1 else ""
            axes.plot(*_thinned(steps[window - 1 :], means), color=colour, linewidth=1.6, marker=marker, linestyle=dash)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))

    return _svg(draw, name)


def interval_svg(lines: Sequence[Sequence[tuple[float, Interval]]], name: str, limits: tuple[float, float]) -> str:
    """One chart of lines of (position, interval) points with their intervals, as :func:`curve_svg`, and a line at 0.
    ``limits`` are the ends of the vertical axis."""

    def draw(axes: Axes) -> None:
        axes.axhline(0.0, color=_INK, linewidth=0.8, alpha=0.5)
        for index, points in enumerate(lines):
            found = [interval for _, interval in points]
            axes.errorbar(
                # Beside one another, because intervals at the same place would cover each other.
                [at + 0.01 * (index - (len(lines) - 1) / 2) for at, _ in points],
                [one.delta for one in found],
                yerr=[[one.delta - one.low for one in found], [one.high - one.delta for one in found]],
                color=_placeholder(index % SERIES),
                linestyle=DASHES[dash_of(index)],
                linewidth=1.6,
                elinewidth=1.0,
                marker="o",
                markersize=3,
                capsize=2,
            )
        axes.set_ylim(*limits)

    return _svg(draw, name)


def dash_of(index: int) -> int:
    """Which of :data:`DASHES` a line has, by its place among the lines."""
    return index // SERIES % len(DASHES)


def legend(names: Sequence[str]) -> list[tuple[int, int, str]]:
    """The colour and the dash of every line, and its name."""
    return [(place % SERIES, dash_of(place), name) for place, name in enumerate(names)]


def _svg(draw: Callable[[Axes], None], name: str) -> str:
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure = Figure(figsize=(3.4, 2.0))
        axes = figure.add_axes((0.21, 0.14, 0.77, 0.82))
        draw(axes)
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
