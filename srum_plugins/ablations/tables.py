"""An ablation's table: for the terminal, as markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from srum_plugins.ablations.compare import Row
from srum_plugins.records import Failure
from srum_plugins.report import plain
from srum_plugins.stats import Interval

STYLES = {"better": "green", "worse": "red"}
NOTE = (
    "change of the share of prompts met in full, with its paired 95 % bootstrap interval over prompts, each with its "
    "mean over the seeds; intervals are of one comparison each, not corrected for how many there are"
)


def table(found: Sequence[Row], control: str | None, title: str) -> Table:
    """The table for a rich console. What is better is green, what is worse red."""
    grid = Table(title=Text(title), caption=Text(NOTE), title_justify="left")
    heads = ["arm", "split", "before", "after", *_compared(control), "understanding"]
    for head in heads:
        grid.add_column(Text(head), justify="right" if head in ("before", "after") else "left")
    last = ""
    for row in found:
        if last and row.arm != last:
            grid.add_section()
        cells = [Text(row.arm if row.arm != last else ""), Text(row.split), *_figures(row)]
        last = row.arm
        for interval, word in _intervals(row, control):
            verdict = "" if interval is None else f"\n{interval.verdict}"
            cells.append(Text(f"{word}{verdict}", STYLES.get(verdict.strip(), "")))
        grid.add_row(*cells, Text(row.understanding))
    return grid


def markdown(found: Sequence[Row], control: str | None, title: str, failures: Mapping[tuple[str, int], Failure]) -> str:
    """The table as GitHub markdown, with the arms that failed below it."""
    heads = ["arm", "split", "before", "after"]
    for head in _compared(control):
        heads += [head, "verdict"]
    heads += ["understanding", "seeds", "prompts"]
    lines = [f"**{plain(title)}**", "", f"| {' | '.join(map(plain, heads))} |", f"|{'---|' * len(heads)}"]
    for row in found:
        cells = [row.arm, row.split, *map(str, _figures(row))]
        for interval, word in _intervals(row, control):
            cells += [word, "" if interval is None else interval.verdict]
        prompts = "" if row.base is None else str(row.base.n)
        cells += [row.understanding, " ".join(map(str, row.seeds)), prompts]
        lines.append(f"| {' | '.join(map(plain, cells))} |")
    lines += ["", NOTE, ""]
    lines += [
        f"- {plain(arm)}, seed {seed}: failed, {plain(failure.cause)}: {plain(failure.detail)}"
        for (arm, seed), failure in failures.items()
    ]
    return "\n".join(lines).rstrip() + "\n"


def csv_text(found: Sequence[Row]) -> str:
    """The rows as CSV with a line of column names, numbers in full; what there is not is empty."""
    stream = io.StringIO()
    plains = [row.plain() for row in found]
    writer = csv.DictWriter(stream, list(plains[0]) if plains else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(plains)
    return stream.getvalue()


def shown(interval: Interval) -> str:
    """An interval as text, such as ``+0.062 [+0.040, +0.084]``."""
    return f"{interval.delta:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _compared(control: str | None) -> list[str]:
    return ["minus base", *([f"minus {control}"] if control is not None else [])]


def _intervals(row: Row, control: str | None) -> list[tuple[Interval | None, str]]:
    """The differences of a row with their text; the base's own is 0 by construction, the control's own stays empty."""
    base = (row.base, "0 by construction" if row.base is None else shown(row.base))
    if control is None:
        return [base]
    return [base, (row.control, "" if row.control is None else shown(row.control))]


def _figures(row: Row) -> list[Text]:
    return [Text(f"{row.before:.3f}"), Text(f"{row.after:.3f}")]
