"""The sections of a page, made of plain data: of one run, or of several beside one another.

Each function returns a :class:`Section` that a macro of ``templates/sections.html.j2`` shows. All text is given as it
is; the templates escape it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from srum_plugins import report
from srum_plugins.records import Box, Failure, Region, Score, total
from srum_plugins.reporting.curves import curve_svg, legend
from srum_plugins.reporting.figures import cut, duration, ends, limits, number, plot, without_credentials
from srum_plugins.reporting.inline import LOSSLESS, data_uri, mask_uri, weights_uri
from srum_plugins.rewards.maps import RewardMap, mask_array
from srum_plugins.stats import BETTER, WORSE, Interval

ANSWERS = 12
"""Raw answers of a judge that are shown of a candidate."""
LISTED = 200
"""Rows of a list of failures or readings that are shown."""
WORST = ("stop", "warning")
"""The levels of a monitor's reading that are told, the worst first."""
NARROW = 4
"""Images of a strip that stand in a narrow card."""
TOLD = 4
"""Runs whose curves are told in figures too."""
FOLDED = 12
"""Readings of monitors that are well: more of them are opened by a click."""


@dataclass(frozen=True)
class Section:
    """A part of a page: ``key`` is its anchor, ``macro`` shows ``data``."""

    key: str
    title: str
    macro: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Shot:
    """One image of a :class:`Strip`; ``met`` says whether it meets its prompt, None where nobody knows."""

    label: str
    image: Image.Image
    met: bool | None = None


@dataclass(frozen=True)
class Strip:
    """Images of one prompt and seed beside one another: before and after, or of several arms."""

    prompt: str
    group: str
    shots: Sequence[Shot]


@dataclass(frozen=True)
class Card:
    """A candidate with its regions, the judge's scores of them, and the map that it was trained with. ``grid`` is the
    token grid (rows, columns); ``local`` has a score for each of ``regions``."""

    title: str
    prompt: str
    image: Image.Image
    regions: Sequence[Region]
    alpha: Score | Failure
    local: Sequence[Score | Failure]
    map: RewardMap
    grid: tuple[int, int]
    answers: Sequence[str] = ()


@dataclass(frozen=True)
class Failed:
    """A record that a stage has set apart."""

    stage: str
    candidate: str
    cause: str
    detail: str


@dataclass(frozen=True)
class Cost:
    """What a stage took. ``tokens`` are those that a judge wrote, by chunk, None where nobody counted them; empty of a
    stage without a judge."""

    stage: str
    seconds: float
    tokens: Sequence[int | None] = ()


@dataclass(frozen=True)
class Made:
    """What a stage is of: its fingerprint, and the versions and the code that it was made with."""

    stage: str
    fingerprint: str
    made_with: Mapping[str, str] = field(default_factory=dict)


def headline(summary: Mapping[str, Any]) -> Section:
    """Is it better: each split of a run's summary with its change, the interval, and what that means in words."""
    rows = [row for row in report.rows(summary) if row["what"] in report.splits(summary)]
    figures = [{**_figures(row), "kind": _kind(row)} for row in rows]
    note = " · ".join([*report.failures_in_words(summary), report.understanding_in_words(summary)])
    return Section("headline", "Is it better?", "headline", {"splits": figures, "note": note})


def results(rows: Sequence[Mapping[str, Any]], key: str = "results", title: str = "Results") -> Section:
    """A table of rows as :func:`srum_plugins.report.rows` makes them, with the intervals drawn on one scale."""
    most = max([1e-9, *(abs(row[key]) for row in rows for key in ("delta", "low", "high") if row[key] is not None)])
    shown = [{**_figures(row), "kind": _kind(row), "plot": _plot(row, most)} for row in rows]
    return Section(key, title, "results", {"rows": shown, "most": f"{most:.3f}"})


def gallery(title: str, strips: Sequence[Strip], note: str, *, key: str = "images", folded: bool = False) -> Section:
    """Images of the same prompts and seeds beside one another; ``folded`` ones are opened by a click."""
    shown = [
        {
            "prompt": strip.prompt,
            "group": strip.group,
            "shots": [_shot(shot, strip.prompt) for shot in strip.shots],
        }
        for strip in strips
    ]
    wide = any(len(strip.shots) > NARROW for strip in strips)
    return Section(key, title, "gallery", {"strips": shown, "note": note, "folded": folded, "wide": wide})


def rewards(cards: Sequence[Card], note: str = "") -> Section:
    """Candidates with their regions and scores, the reward map over the image, and the judge's reasons."""
    return Section("rewards", "Reward maps", "rewards", {"cards": [_card(card) for card in cards], "note": note})


def curves(runs: Mapping[str, Sequence[Mapping[str, float]]], note: str = "") -> Section:
    """One chart per metric over the step, with a line for each run by its name. ``runs`` has the metrics of train
    steps, each with ``step``; a metric may be missing from some of them."""
    metrics = dict.fromkeys(name for rows in runs.values() for row in rows for name in row if name != "step")
    charts = []
    for place, metric in enumerate(metrics):
        held = {name: [row for row in rows if metric in row] for name, rows in runs.items()}
        lines = {name: ([row["step"] for row in rows], [row[metric] for row in rows]) for name, rows in held.items()}
        told = [f"{name + ' ' if len(runs) > 1 else ''}{ends(values)}" for name, (_, values) in lines.items() if values]
        charts.append(
            {
                "name": metric,
                "svg": curve_svg(list(lines.values()), f"chart-{place}"),
                "what": "over the step",
                "ends": "; ".join(told) if len(runs) <= TOLD else "",
            }
        )
    named = legend(list(runs)) if len(runs) > 1 else []
    return Section("training", "Training", "curves", {"charts": charts, "legend": named, "note": note})


def monitors(rows: Sequence[Mapping[str, Any]]) -> Section:
    """The readings of monitors in the order of time. Each row has ``name`` and ``value``, and may have ``step``,
    ``level`` (``stop`` and ``warning`` are told; the rest is well) and ``message``."""
    named: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        named.setdefault(str(row["name"]), []).append(row)
    shown = []
    for name, readings in named.items():
        level = next((level for level in WORST if any(one.get("level") == level for one in readings)), "")
        crossed = [one for one in readings if level and one.get("level") == level]
        shown.append(
            {
                "name": name,
                "first": _value(readings[0]["value"]),
                "last": _value(readings[-1]["value"]),
                "numbers": all(isinstance(one["value"], int | float) for one in (readings[0], readings[-1])),
                "count": len(readings),
                "level": level or "well",
                "since": "" if not crossed or crossed[0].get("step") is None else f"from step {crossed[0]['step']}",
                "message": cut(str(crossed[0].get("message") or "")) if crossed else "",
            }
        )
    order = [*WORST, "well"]
    shown.sort(key=lambda entry: order.index(str(entry["level"])))
    well = [entry for entry in shown if entry["level"] == "well"]
    folded = well if len(well) > FOLDED else []
    rows = [entry for entry in shown if entry not in folded]
    return Section("monitors", "Monitors", "monitors", {"rows": rows, "folded": folded})


def quarantine(failed: Sequence[Failed]) -> Section:
    """What was set apart, and why."""
    shown = [
        {"stage": one.stage, "candidate": one.candidate, "cause": one.cause, "detail": cut(one.detail)}
        for one in failed[:LISTED]
    ]
    return Section("quarantine", "Quarantine", "quarantine", {"rows": shown, "total": len(failed)})


def costs(stages: Sequence[Cost]) -> Section:
    """The time that each stage took, with its share, and the tokens that judges wrote."""
    seconds = sum(one.seconds for one in stages)
    shown = [
        {
            "stage": one.stage,
            "time": duration(one.seconds),
            "share": 100 * one.seconds / seconds if seconds else 0.0,
            "tokens": _count(one.tokens) if one.tokens else "",
        }
        for one in stages
    ]
    return Section("cost", "Cost", "costs", {"rows": shown, "total": duration(seconds)})


def made(config: str, versions: Mapping[str, str], stages: Sequence[Made]) -> Section:
    """The configuration (YAML), the versions of the plugins, and what each stage was made with."""
    keys = dict.fromkeys(key for stage in stages for key in stage.made_with)
    with_what = []
    for key in keys:
        values: dict[str, list[str]] = {}
        for stage in stages:
            if key in stage.made_with:
                values.setdefault(stage.made_with[key], []).append(stage.stage)
        with_what.append((key, [(value, names if len(values) > 1 else []) for value, names in values.items()]))
    data = {
        "config": without_credentials(config),
        "versions": list(versions.items()),
        "stages": [(stage.stage, stage.fingerprint) for stage in stages],
        "made_with": with_what,
    }
    return Section("made", "Configuration and versions", "made", data)


def _count(tokens: Sequence[int | None]) -> str:
    count = total(tokens)
    return "not counted" if count is None else f"{count:,}".replace(",", " ")


def _value(value: Any) -> str:
    return number(float(value), ".4g") if isinstance(value, int | float) else cut(str(value))


def _figures(row: Mapping[str, Any]) -> dict[str, str]:
    low, high = row["low"], row["high"]
    return {
        "what": row["what"],
        "before": number(row["before"]),
        "after": number(row["after"]),
        "delta": number(row["delta"], "+.3f"),
        "interval": "" if low is None else limits(low, high),
        "n": "" if row["n"] is None else str(row["n"]),
        "words": report.change_in_words(row),
    }


def _kind(row: Mapping[str, Any]) -> str:
    """The class of a row's colour."""
    words = report.change_in_words(row)
    return words if words in (BETTER, WORSE) else "same"


def _plot(row: Mapping[str, Any], most: float) -> dict[str, str] | None:
    return None if row["low"] is None else plot(Interval(row["delta"], row["low"], row["high"], row["n"]), most)


def _shot(shot: Shot, prompt: str) -> dict[str, Any]:
    met = {True: "met", False: "not met", None: ""}[shot.met]
    return {
        "label": shot.label,
        "uri": data_uri(shot.image),
        "width": shot.image.width,
        "height": shot.image.height,
        "alt": f"{shot.label}: {prompt}{', ' if met else ''}{met}",
        "met": shot.met,
        "words": met,
        "pixels": max(shot.image.size) <= LOSSLESS,
    }


def label_places(boxes: Sequence[Box], size: tuple[int, int], radius: float) -> list[tuple[float, float]]:
    """Where the number of each box stands: the middle of a disc of this radius inside an image of ``size`` (width,
    height), at the first corner of its box where it hides no number before it, or else at the freest."""
    places: list[tuple[float, float]] = []
    for box in boxes:
        corners = [
            (min(max(x, radius), size[0] - radius), min(max(y, radius), size[1] - radius))
            for y in (box.y0, box.y1)
            for x in (box.x0, box.x1)
        ]
        # what is further than a diameter is free, so that the first of such corners wins
        free = [min([math.dist(corner, place) for place in places] + [2 * radius]) for corner in corners]
        places.append(corners[free.index(max(free))])
    return places


def _card(card: Card) -> dict[str, Any]:
    unit = max(card.image.size) / 100
    radius = 5.5 * unit
    places = label_places([region.box for region in card.regions], card.image.size, radius)
    weights = card.map.tokens(*card.grid).numpy()
    regions = [
        {**_region(number, region, score), "at": place}
        for number, (region, score, place) in enumerate(zip(card.regions, card.local, places, strict=True), start=1)
    ]
    return {
        "title": card.title,
        "prompt": card.prompt,
        "uri": data_uri(card.image),
        "width": card.image.width,
        "height": card.image.height,
        "unit": unit,
        "pixels": max(card.image.size) <= LOSSLESS,
        "alpha": _score(card.alpha),
        "regions": regions,
        "radius": radius,
        "weights": weights_uri(weights),
        "range": f"{number(float(weights.min()), '+.2f')} to {number(float(weights.max()), '+.2f')}",
        "grid": f"{card.grid[0]} × {card.grid[1]}",
        "answers": [cut(answer) for answer in card.answers[:ANSWERS]],
        "more": max(0, len(card.answers) - ANSWERS),
    }


def _region(number: int, region: Region, score: Score | Failure) -> dict[str, Any]:
    box, value = region.box, score.value if isinstance(score, Score) else 0.0
    return {
        "number": number,
        "phrase": region.phrase or "region",
        "x": box.x0,
        "y": box.y0,
        "width": box.x1 - box.x0,
        "height": box.y1 - box.y0,
        "mask": mask_uri(mask_array(region.mask), value) if region.mask else "",
        **_score(score),
    }


def _score(score: Score | Failure) -> dict[str, str]:
    if isinstance(score, Failure):
        why = ": ".join(filter(None, (score.cause, score.detail)))
        return {"value": "failed", "kind": "failed", "reason": cut(why)}
    value = number(score.value, "+.2f" if score.value < 0 else ".2f")
    spread = "" if score.spread is None else f" (judges {score.spread:.2f} apart)"
    kind = "low" if score.value < 0 else "high" if score.value > 0 else "zero"
    return {"value": f"{value}{spread}", "kind": kind, "reason": cut(score.reason)}
