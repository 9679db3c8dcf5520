"""Reads T2I-ReasonBench's prompts and questions from the user's own copy: it has no licence, so that none is shipped.

Two JSON lists a dimension, joined by ``id``. An entry of the questions has groups, objects of questions ``q1``,
``q2``... and criteria ``c1``, ``c2``... In some entries the keys have letters before them (``sci_q1``, ``aq1``), do not
count from 1, or have an object as criterion; they are paired by their number all the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from srum_plugins.contracts import Composite
from srum_plugins.errors import ConfigError
from srum_plugins.records import Prompt
from srum_reasonbench.options import DIMENSIONS, ReasonBenchOptions

SPLIT = "reasonbench_vlm_judged"
"""The split of all prompts, and so the name of every figure: the wording around the questions is our own."""
QUALITY = "quality"
"""The figure of the quality questions."""
QUALITY_GROUP = "quality_evaluation"
_KEY = re.compile(r"(?:[A-Za-z]+_)?[A-Za-z]?([qc])_?([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Dimension:
    """The files of a dimension, and the groups that make its reasoning score, with their weights."""

    prompts: str
    questions: str
    reasoning: Mapping[str, float]


FILES: Mapping[str, Dimension] = {
    "entity": Dimension(
        "prompts/entity_reasoning.json",
        "deepseek_evaluation_qs/evaluation_entity.json",
        {"entity_evaluation": 0.7, "other_details_evaluation": 0.3},
    ),
    "idiom": Dimension(
        "prompts/idiom_interpretation.json",
        "deepseek_evaluation_qs/evaluation_idiom.json",
        {"reason_evaluation": 1.0},
    ),
    "scientific": Dimension(
        "prompts/scientific_reasoning.json",
        "deepseek_evaluation_qs/evaluation_scientific.json",
        {"scientific_evaluation": 0.7, "other_details_evaluation": 0.3},
    ),
    "textual_image": Dimension(
        "prompts/textual_image_design.json",
        "deepseek_evaluation_qs/evaluation_textual_image.json",
        {"reason_evaluation": 1.0},
    ),
}

COMPOSITES = (
    Composite("reasoning of four", dict.fromkeys(DIMENSIONS, 0.25)),
    Composite("quality of four", dict.fromkeys(DIMENSIONS, 0.25), QUALITY),
    *(Composite(f"quality of {name}", {name: 1.0}, QUALITY) for name in DIMENSIONS),
)
"""Overall is the plain mean of the four dimensions, reasoning and quality apart."""


@dataclass(frozen=True)
class Group:
    """Questions that are asked together, at least one, each with the criterion of its scores."""

    name: str
    questions: tuple[str, ...]
    criteria: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """A prompt and its groups of questions: those of its reasoning score and of quality."""

    prompt: Prompt
    groups: tuple[Group, ...]


def read_items(options: ReasonBenchOptions) -> list[Item]:
    """The prompts that the options name with their questions, dimension by dimension. Their ids hold the dimension and
    the benchmark's own id, such as ``entity-0007``.

    Raises:
        ConfigError: a file cannot be read or is in another form, or a prompt has no questions.
    """
    return [
        item
        for name in options.dimensions or DIMENSIONS
        for item in _dimension(options.path, name)[: options.per_dimension]
    ]


def digest(options: ReasonBenchOptions) -> str:
    """sha256 of the files that are read, all together."""
    names = [name for each in options.dimensions or DIMENSIONS for name in (FILES[each].prompts, FILES[each].questions)]
    listed = [[name, sha256(_bytes(options.path / name)).hexdigest()] for name in names]
    return sha256(json.dumps(listed).encode()).hexdigest()


def _dimension(folder: Path, name: str) -> list[Item]:
    files = FILES[name]
    prompts, questions = _entries(folder / files.prompts), _entries(folder / files.questions)
    items = []
    for number, entry in prompts.items():
        where = f"{folder / files.prompts}, id {number}"
        text = entry.get("prompt")
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{where}: prompt must be a text that is not empty, got {text!r}")
        if number not in questions:
            raise ConfigError(f"{where}: {folder / files.questions} has no questions for it")
        asked = f"{folder / files.questions}, id {number}"
        groups = [_group(questions[number], group, asked) for group in (*files.reasoning, QUALITY_GROUP)]
        items.append(Item(Prompt(f"{name}-{number:04d}", text.strip(), name, SPLIT), tuple(groups)))
    return items


def _entries(path: Path) -> dict[int, dict[str, Any]]:
    """The entries of a file by their id."""
    try:
        listed = json.loads(_bytes(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{path} must hold a JSON list of objects")
    found: dict[int, dict[str, Any]] = {}
    for index, entry in enumerate(listed):
        number = entry.get("id") if isinstance(entry, dict) else None
        number = int(number) if isinstance(number, str) and number.isdecimal() else number
        if not isinstance(number, int) or isinstance(number, bool):
            raise ConfigError(f"{path}, item {index}: expected an object with a whole number as id")
        if number in found:
            raise ConfigError(f"{path}, item {index}: the id {number} occurs twice")
        found[number] = entry
    return found


def _group(entry: Mapping[str, Any], name: str, where: str) -> Group:
    group = entry.get(name)
    if not isinstance(group, dict):
        raise ConfigError(f"{where}: expected {name}, an object of questions, got {group!r}")
    found: dict[str, dict[int, str]] = {"q": {}, "c": {}}
    for key, value in group.items():
        if match := _KEY.fullmatch(key):
            found[match[1].lower()][int(match[2])] = _said(value, f"{where}, {name}, {key}")
    questions, criteria = found["q"], found["c"]
    if not questions or questions.keys() != criteria.keys():
        raise ConfigError(
            f"{where}, {name}: needs a criterion for every question, and a question: it has the questions "
            f"{sorted(questions)} and the criteria {sorted(criteria)}"
        )
    numbers = sorted(questions)
    return Group(name, tuple(questions[one] for one in numbers), tuple(criteria[one] for one in numbers))


def _said(value: Any, where: str) -> str:
    if isinstance(value, dict) and value and all(isinstance(part, str) for part in value.values()):
        return "; ".join(f"{name}: {part}" for name, part in value.items())
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: must be a text that is not empty, got {value!r}")
    return value.strip()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"benchmark.path: {path} cannot be read: {error.strerror}. The path must be your copy of T2I-ReasonBench "
            "(docs/benchmarks.md)"
        ) from error
