"""What judges and grounders ask in words, with true answers: pretraining's lessons in following such instructions.

The wording is that of the judges ``rubric`` and ``questions`` and of :mod:`srum_plugins.phrases`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from srum_questions.wording import WRITE
from srum_rubric.wording import ANYTHING, GLOBAL, REGION, REGIONS

from srum_plugins.marking import boxes_marked, region_name
from srum_plugins.phrases import ASK
from srum_plugins.records import Box
from srum_shapes.prompts import NUMBERS, PLURAL, RELATION_TEXT, Facts, Group, corrupt, existence_question, sample_facts
from srum_shapes.questions import Item, inventory, some_region, wrong_pair
from srum_shapes.world import Scene, SceneObject, holds, render

NOTHING = "nothing"
"""Shown by a region that lies on no object."""
STATEMENTS = 2
"""Questions of one picture that its prompt would have answered by yes."""


@dataclass(frozen=True)
class Statement:
    """A question of yes or no that a prompt answers by yes. ``true`` says whether a scene does, or None where that is
    not clear."""

    question: str
    true: Callable[[Scene], bool | None]


@dataclass(frozen=True)
class Lesson:
    """Questions that are asked about one picture (32, 32, 3) uint8, or about none."""

    picture: NDArray[np.uint8] | None
    items: tuple[Item, ...]


def statements(facts: Facts) -> tuple[Statement, ...]:
    """What a prompt says: which objects there are, how many of them, how many in all, and where they lie."""
    found = []
    for group in facts.groups:
        if group.count == 1:
            found.append(Statement(existence_question(group.phrase), partial(_there, group)))
        else:
            question = f"are there {NUMBERS[group.count]} {group.colour} {PLURAL[group.shape]} ?"
            found.append(Statement(question, partial(_counted, group)))
    told = "is there one object ?" if facts.total == 1 else f"are there {NUMBERS[facts.total]} objects ?"
    found.append(Statement(told, partial(_complete, facts)))
    if facts.relation is not None:
        first, second = (group.phrase for group in facts.groups[:2])
        asked = f"is the {first} {RELATION_TEXT[facts.relation]} the {second} ?"
        found.append(Statement(asked, partial(_related, facts)))
    return tuple(found)


def _there(group: Group, scene: Scene) -> bool:
    return scene.counts()[group.pair] > 0


def _counted(group: Group, scene: Scene) -> bool:
    return scene.counts()[group.pair] == group.count


def _complete(facts: Facts, scene: Scene) -> bool:
    return len(scene.objects) == facts.total


def _related(facts: Facts, scene: Scene) -> bool | None:
    """Whether the relation holds between the two objects; not where one is missing, not clear where there are more."""
    ends = [[item.box for item in scene.objects if item.pair == group.pair] for group in facts.groups[:2]]
    if not all(ends):
        return False
    if any(len(boxes) > 1 for boxes in ends) or facts.relation is None:
        return None
    (a,), (b,) = ends
    clearly, at_all = holds(a, facts.relation, b, ratio=1.2), holds(a, facts.relation, b, least=1.0, ratio=0.8)
    return clearly if clearly == at_all else None


def share_met(facts: Facts, scene: Scene) -> float | None:
    """The share of a prompt's statements that are true of a scene, or None where one of them is not clear."""
    met = [statement.true(scene) for statement in statements(facts)]
    return None if None in met else sum(map(bool, met)) / len(met)


def score_item(facts: Facts, scene: Scene) -> Item | None:
    """The scoring of a whole picture: everything in it with its box, and the share of the prompt that is met."""
    share = share_met(facts, scene)
    if share is None:
        return None
    return Item(GLOBAL.replace("{text}", facts.text), f"reason: {inventory(scene).answer}\nscore: {share:.1f}", "score")


def regions_item(facts: Facts, scene: Scene, rng: np.random.Generator) -> tuple[Item, list[Box]]:
    """The scoring of one to five marked regions, and their boxes. They lie on objects or beside them; half of them
    should show what they show, others what another one shows, or anything that belongs to the prompt."""
    lines, answers, boxes = [], [], []
    for number in range(int(rng.integers(1, 6))):
        box, shown = some_region(scene, rng)
        phrase = _wanted(facts, shown, scene, rng)
        sides = [round(side) for side in (box.x0, box.y0, box.x1, box.y1)]
        name = region_name(number)
        lines.append(REGION.format(name=name, phrase=phrase, **dict(zip(("x0", "y0", "x1", "y1"), sides, strict=True))))
        told = NOTHING if shown is None else shown.phrase
        answers.append(f"{name} | {told} | {region_score(facts, phrase, shown):.1f}")
        boxes.append(box)
    question = REGIONS.replace("{text}", facts.text).replace("{regions}", "\n".join(lines))
    return Item(question, "\n".join(answers), "regions"), boxes


def _wanted(facts: Facts, shown: SceneObject | None, scene: Scene, rng: np.random.Generator) -> str:
    way = rng.random()
    if way < 0.25:
        return ANYTHING
    if way < 0.6 and shown is not None:
        return shown.phrase
    if way < 0.85 or shown is None:
        return facts.groups[int(rng.integers(len(facts.groups)))].phrase
    return " ".join(wrong_pair(shown, scene, rng))


def region_score(facts: Facts, phrase: str, shown: SceneObject | None) -> float:
    """1 for what should be there, 0 for its colour or shape alone, else -1. Where nothing in particular should be: 1
    for an object of the prompt, 0 for none, -1 for another one."""
    if phrase == ANYTHING:
        return 0.0 if shown is None else 1.0 if shown.pair in facts.counts else -1.0
    if shown is None:
        return -1.0
    right = sum(word in phrase.split(" ") for word in shown.pair)
    return (-1.0, 0.0, 1.0)[right]


def list_item(facts: Facts) -> Item:
    """The writing of a prompt's questions."""
    return Item(WRITE.replace("{text}", facts.text), "\n".join(s.question for s in statements(facts)), "list")


def phrases_item(facts: Facts) -> Item:
    """The naming of a prompt's things."""
    return Item(ASK.replace("{text}", facts.text), "\n".join(group.phrase for group in facts.groups), "phrases")


def lessons(facts: Facts, scene: Scene, rng: np.random.Generator) -> list[Lesson]:
    """One picture of a scene drawn for ``facts`` with questions of its own prompt, of one that is nearly right or of
    any; the same with marked regions; and a prompt without a picture."""
    way = rng.random()
    told = facts if way < 0.4 else corrupt(facts, rng) if way < 0.8 else sample_facts(rng)
    picture = render(scene, rng)
    scored = score_item(told, scene)
    asked = statements(told)
    items = [] if scored is None else [scored]
    for index in rng.choice(len(asked), min(STATEMENTS, len(asked)), replace=False):
        truth = asked[index].true(scene)
        if truth is not None:
            items.append(Item(asked[index].question, "yes" if truth else "no", "statement"))
    regions, boxes = regions_item(told, scene, rng)
    marked = np.asarray(boxes_marked(Image.fromarray(picture), boxes))
    return [
        Lesson(picture, tuple(items)),
        Lesson(marked, (regions,)),
        Lesson(None, (list_item(told), phrases_item(told))),
    ]
