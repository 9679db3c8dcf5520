"""Lessons in what judges and grounders ask: true of the picture, and in the form that judges read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from srum_rubric.wording import ANYTHING
from srum_shapes.instructions import (
    lessons,
    list_item,
    phrases_item,
    region_score,
    regions_item,
    score_item,
    share_met,
    statements,
)
from srum_shapes.prompts import contradicts, corrupt, parse, sample_facts
from srum_shapes.vocabulary import decode, encode
from srum_shapes.world import Scene, SceneObject, sample_scene, scene_for

from srum_plugins.records import Box

seeds = st.integers(0, 2**32 - 1)
RED = SceneObject("circle", "red", Box(2, 2, 10, 10))
BLUE = SceneObject("square", "blue", Box(18, 4, 26, 12))


@given(seeds)
def test_everything_is_true_of_a_scene_drawn_for_the_prompt(seed: int) -> None:
    rng = np.random.default_rng(seed)
    facts = sample_facts(rng)
    scene = scene_for(facts, rng)
    assert all(statement.true(scene) for statement in statements(facts))
    assert share_met(facts, scene) == 1.0
    wrong = corrupt(facts, rng)
    assert contradicts(facts, wrong) and share_met(wrong, scene) != 1.0


@given(seeds)
def test_every_lesson_is_in_the_models_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    facts = sample_facts(rng)
    scene = scene_for(facts, rng)
    pictured, marked, told = lessons(facts, scene, rng)
    assert pictured.picture is not None and marked.picture is not None and told.picture is None
    assert (pictured.picture != marked.picture).any()
    for item in (*pictured.items, *marked.items, *told.items):
        assert len(encode(item.question)) + len(encode(item.answer)) < 300
        assert encode(decode(encode(item.answer))) == encode(item.answer)


def test_what_is_asked_of_a_prompt() -> None:
    facts = parse("a red circle left of a blue square")
    assert list_item(facts).answer.splitlines() == [
        "is there a red circle ?",
        "is there a blue square ?",
        "are there two objects ?",
        "is the red circle left of the blue square ?",
    ]
    assert phrases_item(facts).answer.splitlines() == ["red circle", "blue square"]
    assert list_item(parse("two red circles")).answer.splitlines() == [
        "are there two red circles ?",
        "are there two objects ?",
    ]
    assert list_item(parse("a red circle")).answer.splitlines()[1] == "is there one object ?"


def test_the_share_of_a_prompt_that_is_met() -> None:
    scene = Scene((RED, BLUE))
    for text, share in (
        ("a red circle left of a blue square", 1.0),
        ("a red circle right of a blue square", 0.75),
        ("a red circle right of a green square", 0.5),
        ("two red circles", 0.5),
        ("three green crosses", 0.0),
    ):
        assert share_met(parse(text), scene) == share
    item = score_item(parse("a red circle right of a blue square"), scene)
    assert item is not None
    assert item.answer == "reason: red circle <2> <2> <10> <10> ; blue square <18> <4> <26> <12>\nscore: 0.8"


def test_a_relation_that_is_not_clear_is_not_scored() -> None:
    twins = Scene((RED, BLUE, SceneObject("circle", "red", Box(2, 20, 10, 28))))
    assert score_item(parse("a red circle left of a blue square"), twins) is None


@pytest.mark.parametrize(
    ("phrase", "shown", "score"),
    [
        ("red circle", RED, 1.0),
        ("red square", RED, 0.0),
        ("blue square", RED, -1.0),
        ("red circle", None, -1.0),
        (ANYTHING, RED, 1.0),
        (ANYTHING, SceneObject("cross", "green", Box(1, 1, 9, 9)), -1.0),
        (ANYTHING, None, 0.0),
    ],
)
def test_the_score_of_a_region(phrase: str, shown: SceneObject | None, score: float) -> None:
    assert region_score(parse("a red circle and a blue square"), phrase, shown) == score


@given(seeds)
def test_regions_are_told_apart_and_scored_one_a_line(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    item, boxes = regions_item(sample_facts(rng), scene, rng)
    lines = item.answer.splitlines()
    assert len(lines) == len(boxes)
    assert [line.split(" | ")[0] for line in lines] == [f"R{number + 1}" for number in range(len(boxes))]
    for line, box in zip(lines, boxes, strict=True):
        shown = line.split(" | ")[1]
        best = max(scene.objects, key=lambda one: one.box.iou(box))
        assert shown == (best.phrase if best.box.iou(box) > 0.5 else "nothing")
