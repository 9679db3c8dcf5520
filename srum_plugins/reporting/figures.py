"""Numbers, intervals and texts as a page shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from srum_plugins.stats import Interval

TEXT = 600
"""Characters of a reason or an answer that are shown."""
PLOT = 120
"""The width of an interval's plot in units of its own."""


def without_credentials(text: str) -> str:
    """A text with the user and password of every address in it left out: a report is passed on."""
    return re.sub(r"(://)[^/@\s'\"]+@", r"\1***@", text)


def duration(seconds: float) -> str:
    """Seconds as ``4.2 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: float | None, form: str = ".3f") -> str:
    """A number in a form of Python's, with a true minus and no sign of zero; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:{form}}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def ends(values: Sequence[float]) -> str:
    """The first and the last of some values."""
    return f"{number(values[0], '.4g')} to {number(values[-1], '.4g')}"


def limits(low: float, high: float) -> str:
    """The limits of an interval."""
    return f"[{number(low, '+.3f')}, {number(high, '+.3f')}]"


def change(interval: Interval) -> str:
    """A difference with its limits."""
    return f"{number(interval.delta, '+.3f')} {limits(interval.low, interval.high)}"


def plot(interval: Interval, most: float) -> dict[str, str]:
    """Where an interval and its middle lie in a plot of width :data:`PLOT` whose ends are ``most`` on both sides of
    zero."""
    places = {"low": interval.low, "middle": interval.delta, "high": interval.high}
    return {name: f"{PLOT / 2 + 0.94 * PLOT / 2 * value / most:.1f}" for name, value in places.items()}


def cut(text: str) -> str:
    """A text, or its first :data:`TEXT` characters and how many more there are."""
    return text if len(text) <= TEXT else f"{text[:TEXT]} … ({len(text) - TEXT} more characters)"
