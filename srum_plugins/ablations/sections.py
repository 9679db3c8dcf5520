"""The sections of an experiment's page, as :mod:`srum_plugins.reporting.sections` has those of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srum_plugins.ablations.arms import Arm
from srum_plugins.ablations.compare import Row
from srum_plugins.ablations.stress import Curves
from srum_plugins.ablations.tables import NOTE
from srum_plugins.reporting.curves import interval_svg, legend
from srum_plugins.reporting.figures import change, cut, duration, ends, number, plot
from srum_plugins.reporting.sections import Section
from srum_plugins.stats import BETTER, WORSE, Interval

BASE = "base"
"""What the model before training is called in a difference."""


@dataclass(frozen=True)
class Spent:
    """The seconds of some stages, by stage, and who has their results."""

    arms: str
    seconds: Mapping[str, float]


def gains(rows: Sequence[Row], control: str | None) -> Section:
    """The differences of each arm to the model before training and to the arm ``control``, with their intervals on one
    scale, a chart a split."""
    intervals = [one for row in rows for one in (row.base, row.control) if one is not None]
    most = max([1e-9, *(abs(end) for one in intervals for end in (one.low, one.high))])
    splits = [
        {"split": split, "rows": [_gain(row, control, most) for row in rows if row.split == split]}
        for split in dict.fromkeys(row.split for row in rows)
    ]
    data = {"splits": splits, "most": f"{most:.3f}", "compared": _compared(control), "note": f"The {NOTE}."}
    return Section("gains", "Gains", "gains", data)


def comparison(rows: Sequence[Row], control: str | None, notes: Sequence[str] = ()) -> Section:
    """The table of :func:`gains` in figures. ``notes`` stand below it, such as which arms failed."""
    shown = [
        {
            "arm": row.arm,
            "split": row.split,
            "first": index == 0 or rows[index - 1].arm != row.arm,
            "before": number(row.before),
            "after": number(row.after),
            "differences": [_difference(name, one) for name, one in _differences(row, control)],
            "understanding": row.understanding,
            "seeds": " ".join(map(str, row.seeds)),
            "prompts": "" if row.base is None else str(row.base.n),
        }
        for index, row in enumerate(rows)
    ]
    data = {"rows": shown, "compared": _compared(control), "notes": [cut(note) for note in notes]}
    return Section("table", "Table", "comparison", data)


def sensitivity(curves: Curves) -> Section:
    """The gain over the level of what was made worse, a chart a kind and a line a split."""
    gained = [point.gain for lines in curves.values() for line in lines.values() for point in line]
    low, high = min([0.0, *(one.low for one in gained)]), max([0.0, *(one.high for one in gained)])
    margin = 0.05 * max(high - low, 1e-9)
    splits = list(dict.fromkeys(split for lines in curves.values() for split in lines))
    charts = []
    for place, (kind, lines) in enumerate(curves.items()):
        drawn = [[(point.level, point.gain) for point in lines.get(split, ())] for split in splits]
        told = [f"{split} {ends([point.gain.delta for point in line])}" for split, line in lines.items()]
        charts.append(
            {
                "name": kind,
                "svg": interval_svg(drawn, f"sensitivity-{place}", (low - margin, high + margin)),
                "what": "gain over the level",
                "ends": "; ".join(told),
            }
        )
    return Section("sensitivity", "Sensitivity", "curves", {"charts": charts, "legend": legend(splits), "note": ""})


def changes(arms: Sequence[Arm]) -> Section:
    """What each arm changes of the main configuration."""
    return Section("arms", "Arms", "changes", {"rows": arms})


def spent(rows: Sequence[Spent]) -> Section:
    """The time of every stage, a row for those who share it."""
    stages = list(dict.fromkeys(stage for row in rows for stage in row.seconds))
    shown = [
        {
            "arms": row.arms,
            "times": [duration(row.seconds[stage]) if stage in row.seconds else "" for stage in stages],
            "total": duration(sum(row.seconds.values())),
        }
        for row in rows
    ]
    sums = [sum(row.seconds.get(stage, 0.0) for row in rows) for stage in stages]
    whole = {"times": [duration(seconds) for seconds in sums], "total": duration(sum(sums))}
    return Section("cost", "Cost", "spent", {"stages": stages, "rows": shown, "whole": whole})


def _compared(control: str | None) -> list[str]:
    return [BASE, *([control] if control is not None else [])]


def _differences(row: Row, control: str | None) -> list[tuple[str, Interval | None]]:
    return list(zip(_compared(control), (row.base, row.control), strict=False))


def _difference(name: str, interval: Interval | None) -> dict[str, str]:
    if interval is None:
        return {"name": name, "figure": "0 by construction" if name == BASE else "", "kind": "same", "words": ""}
    words = interval.verdict
    kind = words if words in (BETTER, WORSE) else "same"
    return {"name": name, "figure": change(interval), "kind": kind, "words": words}


def _gain(row: Row, control: str | None, most: float) -> dict[str, Any]:
    marks = []
    for place, (name, one) in enumerate(_differences(row, control)):
        if one is not None:
            marks.append({**plot(one, most), **_difference(name, one), "colour": place, "y": 6 + 8 * place})
    return {"arm": row.arm, "marks": marks, "height": 4 + 8 * len(_compared(control))}
