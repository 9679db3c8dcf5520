import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_model import OracleModel
from PIL import Image
from srum_shapes.prompts import parse, to_prompt
from srum_shapes.questions import (
    WEIGHTS,
    Item,
    format_box,
    format_boxes,
    grounded_phrase,
    in_box,
    parse_boxes,
    sample_item,
    sample_items,
    split_box,
)
from srum_shapes.vocabulary import BOI, BOS, EOI, EOS, LOCATIONS, PAD, SPECIAL, WORDS, decode, encode
from srum_shapes.world import SIDE, Scene, SceneObject, render, sample_scene

from srum_plugins.contracts import Answer, Question
from srum_plugins.errors import ContractError
from srum_plugins.records import Box, Failure

seeds = st.integers(0, 2**32 - 1)


@st.composite
def whole_boxes(draw: st.DrawFn) -> Box:
    x0, y0 = draw(st.integers(0, SIDE - 1)), draw(st.integers(0, SIDE - 1))
    return Box(x0, y0, draw(st.integers(x0 + 1, SIDE)), draw(st.integers(y0 + 1, SIDE)))


@given(st.lists(st.sampled_from(WORDS)))
def test_texts_of_known_words_survive_the_tokenizer(words):
    ids = encode(" ".join(words))
    assert len(ids) == len(words)
    assert decode(ids) == " ".join(words)


def test_the_vocabulary_is_what_checkpoints_were_trained_with():
    assert [WORDS.index(word) for word in SPECIAL] == [PAD, BOS, EOS, BOI, EOI]
    assert len(set(WORDS)) == len(WORDS) == 163
    assert WORDS[83 - len(LOCATIONS) : 83] == LOCATIONS and len(LOCATIONS) == SIDE + 1
    digest = hashlib.sha256("\n".join(WORDS).encode()).hexdigest()
    assert digest.startswith("ed3f17d73a8fd843"), "a changed word list makes every trained checkpoint unreadable"


def test_instructions_are_read_as_they_are_written() -> None:
    assert encode("R1 | Red circle | -1.0\nScore: 0.5") == encode("r1 | red circle | -1.0 \n score : 0.5")
    assert encode("at 3 17 0 32") == encode("at <3> <17> <0> <32>")
    with pytest.raises(ContractError, match="no word '33'"):
        encode("at 33")


def test_unknown_words_and_ids_are_named():
    with pytest.raises(ContractError, match=r"no word 'triangel'.*Did you mean 'triangle'"):
        encode("a red triangel")
    with pytest.raises(ContractError, match="id 163 is outside"):
        decode([1, 163])


@given(seeds)
def test_answers_are_true_of_the_picture(seed):
    """The oracle reads the picture, knows nothing of the scene, and agrees with every answer."""
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    image = Image.fromarray(render(scene, rng))
    model = OracleModel()
    for item in sample_items(scene, rng, 12):
        encode(f"{item.question} {item.answer}")
        if item.kind == "grounding":
            (found,) = model.locate([image], [[grounded_phrase(item.question)]])
            assert item.answer == format_boxes([region.box for region in found])
        else:
            text, box = split_box(item.question)
            assert model.answer([Question(image, text, box=box)]) == [Answer(item.answer)], item


def test_kinds_come_as_weighted_and_yes_and_no_are_balanced():
    rng = np.random.default_rng(0)
    items = [item for _ in range(1500) for item in sample_items(sample_scene(rng), rng, 4)]
    shares = Counter(item.kind for item in items)
    assert 0.12 < shares["relation"] / len(items) < 0.25
    for kind in ("region", "existence", "colour", "shape", "count", "grounding"):
        assert 0.8 < shares[kind] / shares["region"] / (WEIGHTS[kind] / WEIGHTS["region"]) < 1.25, kind
    for kind in ("existence", "region"):
        answers = [item.answer == "yes" for item in items if item.kind == kind]
        assert 0.45 < np.mean(answers) < 0.55
    counts = Counter(item.answer for item in items if item.kind == "count")
    assert min(counts[word] for word in ("zero", "one", "two", "three", "four")) >= 3


def test_relations_are_asked_only_where_they_are_clear():
    rng = np.random.default_rng(0)
    twins = Scene(tuple(SceneObject("circle", "red", Box(x, 2, x + 8, 10)) for x in (1, 20)))
    diagonal = Scene(
        (SceneObject("circle", "red", Box(2, 2, 10, 10)), SceneObject("cross", "red", Box(18, 18, 26, 26)))
    )
    assert sample_item(twins, rng, "relation") is None
    assert sample_item(diagonal, rng, "relation") is None
    beside = Scene((SceneObject("circle", "red", Box(2, 2, 10, 10)), SceneObject("cross", "red", Box(18, 4, 26, 12))))
    found = {sample_item(beside, rng, "relation") for _ in range(20)}
    assert found == {
        Item("where is the red circle from the red cross ?", "left", "relation"),
        Item("where is the red cross from the red circle ?", "right", "relation"),
    }


def test_checks_are_worded_as_the_questions_of_pretraining():
    """Every form of question that a prompt's checks ask is one that pretraining asks."""

    def form(text: str) -> str:
        return " ".join("*" if word in {"red", "blue", "circle", "square", "circles", "squares"} else word
                        for word in text.split())  # fmt: skip

    rng = np.random.default_rng(0)
    scene = Scene((SceneObject("circle", "red", Box(2, 2, 10, 10)), SceneObject("square", "blue", Box(18, 4, 26, 12))))
    taught = {form(sample_item(scene, rng, kind).question) for kind in WEIGHTS for _ in range(100)}
    prompt = to_prompt(parse("a red circle left of a blue square"), "p", "train")
    assert {form(check.question) for check in prompt.checks} <= taught


@given(st.lists(whole_boxes(), max_size=4))
def test_box_answers_survive(boxes):
    assert parse_boxes(format_boxes(boxes)) == sorted(boxes, key=lambda box: (box.x0, box.y0))
    for box in boxes:
        assert split_box(in_box("what colour ?", box)) == ("what colour ?", box)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("", "malformed boxes"),
        ("<1> <2> <3>", "malformed boxes"),
        ("<1> <2> <3> <4> ;", "malformed boxes"),
        ("none ; <1> <2> <3> <4>", "malformed boxes"),
        ("red", "malformed boxes"),
        ("<5> <2> <5> <4>", "empty box"),
        ("<1> <2> <9> <9> ; <9> <2> <3> <4>", "empty box"),
    ],
)
def test_broken_box_answers_are_failures(answer, cause):
    found = parse_boxes(answer)
    assert isinstance(found, Failure) and found.cause == cause


def test_boxes_outside_the_picture_have_no_words():
    with pytest.raises(ContractError, match="leaves the picture"):
        format_box(Box(-1, 0, 4, 4))
