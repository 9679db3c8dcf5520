"""Result tables of a run's summary, for the terminal and as markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from srum_plugins.stats import Interval

HEADERS = {
    "what": "",
    "before": "before",
    "after": "after",
    "delta": "delta",
    "low": "95 % low",
    "high": "95 % high",
    "n": "n",
}


def splits(summary: Mapping[str, Any]) -> list[str]:
    """The benchmark's splits in a summary."""
    return [name for name, entry in summary.items() if isinstance(entry, Mapping) and "ci95" in entry]


def rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per split, per category, further figure and composite of a split, and per kind of understanding question,
    with the keys of :data:`HEADERS`. Numbers are fractions; ``low`` and ``high`` are the paired 95 % interval of
    ``delta``. All are None where there is none, such as of a category of which no prompt was scored on both sides."""
    table = []
    for split in splits(summary):
        entry = summary[split]
        table.append(_row(split, entry))
        table += [_row(f"{split}/{name}", figures) for name, figures in entry["categories"].items()]
        further = {**entry.get("graded", {}), **entry.get("composites", {})}
        table += [_row(f"{split}, {name}", figures) for name, figures in further.items()]
    understanding = summary.get("understanding") or {}
    before, after = understanding.get("before") or {}, understanding.get("after") or {}
    for kind in after:
        table.append(
            {
                "what": f"understanding/{kind}",
                "before": before.get(kind),
                "after": after[kind],
                "delta": after[kind] - before[kind] if kind in before else None,
                "low": None,
                "high": None,
                "n": understanding.get("questions", {}).get(kind),
            }
        )
    return table


def _row(what: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    low, high = figures["ci95"] or (None, None)
    return {
        "what": what,
        "before": figures["before"],
        "after": figures["after"],
        "delta": figures["delta"],
        "low": low,
        "high": high,
        "n": figures["prompts"],
    }


def table(summary: Mapping[str, Any]) -> Table:
    """The result table for a rich console. Gains whose interval lies above zero are green, losses below it red."""
    grid = Table(
        title=f"before and after training · {escape(summary['arm'])}",
        caption=escape(_footnote(summary)),
        title_justify="left",
    )
    for key, header in HEADERS.items():
        grid.add_column(header, justify="left" if key == "what" else "right", no_wrap=key != "what")
    section = ""
    for row in rows(summary):
        name, _, detail = row["what"].partition("/")
        if section and name != section:
            grid.add_section()
        section = name
        style = ""
        if row["low"] is not None and row["low"] > 0:
            style = "green"
        elif row["high"] is not None and row["high"] < 0:
            style = "red"
        cells = _cells(row)
        what = f"  {detail}" if detail and name != "understanding" else row["what"].replace("/", ": ")
        cells[0] = escape(what)  # names are the benchmark's own
        cells[3] = f"[{style}]{cells[3]}[/{style}]" if style else cells[3]
        grid.add_row(*cells, style=None if detail else "bold")
    return grid


def markdown(summary: Mapping[str, Any]) -> str:
    """The result table as GitHub markdown, with the arm above and the understanding digest below."""
    lines = [
        f"**{summary['arm']}**",
        "",
        f"| {' | '.join(HEADERS.values())} |",
        f"|{'|'.join('---' if key == 'what' else '--:' for key in HEADERS)}|",
    ]
    lines += [f"| {' | '.join(plain(cell) for cell in _cells(row))} |" for row in rows(summary)]
    return "\n".join([*lines, "", *(plain(line) for line in _footnote(summary).split("\n")), ""])


def plain(text: str) -> str:
    """Text that markdown and HTML take as it is, in one line."""
    for special in "\\`*[]<>|":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())


def _cells(row: Mapping[str, Any]) -> list[str]:
    def number(key: str) -> str:
        value = row[key]
        return "" if value is None else f"{value:.3f}" if key in ("before", "after") else f"{value:+.3f}"

    count = "" if row["n"] is None else str(row["n"])
    return [row["what"], *(number(key) for key in ("before", "after", "delta", "low", "high")), count]


def understanding_in_words(summary: Mapping[str, Any]) -> str:
    """Whether training left the weights of the understanding half alone."""
    identical = (summary.get("understanding") or {}).get("identical")
    return {
        True: "understanding weights bit-identical before and after",
        False: "understanding weights have changed",
        None: "understanding weights not compared (the adapter gives no digest)",
    }[identical]


def change_in_words(row: Mapping[str, Any]) -> str:
    """What the interval of a row of :func:`rows` allows to say of its change; empty where there is none."""
    low, high = row["low"], row["high"]
    if low is None or high is None:
        return ""
    return Interval(row["delta"], low, high, row["n"]).verdict


def _footnote(summary: Mapping[str, Any]) -> str:
    total = sum(summary.get("seconds", {}).values())
    stopped = f"{summary['stopped']}\n" if summary.get("stopped") else ""
    told = [*failures_in_words(summary), understanding_in_words(summary), f"{total:.0f} s of work"]
    return f"{stopped}{' · '.join(told)}"


def failures_in_words(summary: Mapping[str, Any]) -> list[str]:
    """What could not be scored, a phrase a split."""
    told = []
    for split in splits(summary):
        if causes := summary[split].get("causes"):
            failed = summary[split]["failed"]
            why = ", ".join(f"{cause}: {count}" for cause, count in causes.items())
            told.append(f"{split}: {failed['before']} not scored before, {failed['after']} after ({why})")
    return told
