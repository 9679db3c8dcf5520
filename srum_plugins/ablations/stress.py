"""The stress test of the boxes: an arm for each kind and level of corruption, and the curve of what is gained still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from srum_plugins.ablations.arms import Arm
from srum_plugins.ablations.compare import Row
from srum_plugins.corruption import KINDS
from srum_plugins.errors import ConfigError, did_you_mean
from srum_plugins.stats import Interval

CLEAN = "clean"
COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#762a83")


@dataclass(frozen=True)
class Point:
    """The gain over the base at a level of corruption, in [0, 1]; 0 is the run as it is."""

    level: float
    gain: Interval


Curves = Mapping[str, Mapping[str, Sequence[Point]]]
"""The points by kind and split, in rising level."""


def stress_arms(kinds: Sequence[str], levels: Sequence[float]) -> list[Arm]:
    """The run as it is, and an arm for each kind and level.

    Raises:
        ConfigError: a kind is unknown, or a level lies outside (0, 1].
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"boxes cannot be corrupted by {kind!r}.{did_you_mean(kind, KINDS)}")
    for level in levels:
        if not 0.0 < level <= 1.0:
            raise ConfigError(f"--levels: must lie in (0, 1], got {level:g}; 0 is the arm {CLEAN!r}, which always runs")
    found = [
        Arm(_name(kind, level), f"{kind} of the boxes", (f"ground.corrupt={kind}", f"ground.corrupt_level={level:g}"))
        for kind in dict.fromkeys(kinds)
        for level in sorted(set(levels))
    ]
    return [Arm(CLEAN, "the run as it is", ("ground.corrupt=none",)), *found]


def curves(rows: Sequence[Row], kinds: Sequence[str], levels: Sequence[float]) -> Curves:
    """The points from the clean run on. What was not measured is left out."""
    gains = {(row.arm, row.split): row.base for row in rows if row.base is not None}
    found: dict[str, dict[str, list[Point]]] = {}
    for kind in dict.fromkeys(kinds):
        places = [(0.0, CLEAN), *((level, _name(kind, level)) for level in sorted(set(levels)))]
        for split in dict.fromkeys(row.split for row in rows):
            points = [Point(level, gains[arm, split]) for level, arm in places if (arm, split) in gains]
            if any(point.level > 0 for point in points):
                found.setdefault(kind, {})[split] = points
    return found


def sensitivity_curve(found: Curves) -> Image.Image | None:
    """One panel per kind: the gain over the level with its 95 % interval, a colour per split; None without points."""
    if not found:
        return None
    from matplotlib.figure import Figure  # slow to import

    across = min(len(found), 3)
    down = -(-len(found) // across)
    figure = Figure(figsize=(4.2 * across, 3.2 * down), dpi=100, layout="constrained")
    first = None
    for index, (kind, splits) in enumerate(found.items()):
        axes = first = figure.add_subplot(down, across, index + 1, sharey=first)
        axes.axhline(0.0, color="#999999", linewidth=1)
        for turn, (split, points) in enumerate(splits.items()):
            gains = [point.gain for point in points]
            axes.errorbar(
                # Beside one another, because intervals of the same level would cover each other.
                [point.level + 0.01 * (turn - (len(splits) - 1) / 2) for point in points],
                [gain.delta for gain in gains],
                yerr=[[gain.delta - gain.low for gain in gains], [gain.high - gain.delta for gain in gains]],
                color=COLOURS[turn % len(COLOURS)],
                marker="o",
                markersize=4,
                capsize=3,
                linewidth=1.5,
                label=split.replace("$", "\\$"),  # a benchmark's own name, and no formula
            )
        axes.set_title(kind, fontsize=10)
        axes.set_xlabel("level of corruption")
        axes.set_ylabel("gain over the base")
        axes.spines[["top", "right"]].set_visible(False)
        if index == 0:
            axes.legend(fontsize=8, frameon=False)
    png = BytesIO()
    figure.savefig(png, format="png")
    return Image.open(png).convert("RGB")


def _name(kind: str, level: float) -> str:
    return f"{kind}-{level:g}"
