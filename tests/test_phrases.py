"""The things that a prompt names: by the rule, and by asking a model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_model import OracleModel
from srum_shapes.prompts import sample_facts, to_prompt

from srum_plugins.contracts import Answer
from srum_plugins.errors import ContractError
from srum_plugins.phrase_words import BEING, DETERMINERS, LINKS, PLURALS, QUANTITIES, VERBS
from srum_plugins.phrases import (
    ASK,
    ask_phrases,
    meant,
    noun_phrases,
    prompt_phrases,
    read_phrases,
    singular,
    words,
)
from srum_plugins.records import Failure, Prompt

THINGS = ("apple", "dog", "bench", "spoon", "vase", "wolf", "woman", "box", "butterfly", "tomato")
LOOKS = ("", "red ", "wooden ", "shiny green ", "metallic ")
BETWEEN = (
    " and ",
    ", ",
    " on the left of ",
    " behind ",
    " with ",
    " is next to ",
    " in front of ",
    "; ",
    " hidden by ",
)
listed = st.sampled_from(sorted([*BEING, *DETERMINERS, *LINKS, *QUANTITIES, *VERBS, *PLURALS, *THINGS, ",", ".", "of"]))


@given(st.text(max_size=80) | st.lists(listed, max_size=20).map(" ".join))
def test_any_text_has_phrases_of_its_own_words_each_once(text: str) -> None:
    found = noun_phrases(text)
    said = words(text)
    known = {form for word in said for form in (word, singular(word))}
    assert all(phrase and set(phrase.split(" ")) <= known for phrase in found)
    assert len(set(found)) == len(found) and sum(len(phrase.split(" ")) for phrase in found) <= len(said)
    assert not any(phrase in DETERMINERS | BEING | LINKS for phrase in found)
    assert noun_phrases(text) == found
    # In the order of appearance, from left to right.
    place = 0
    for phrase in found:
        for word in phrase.split(" "):
            place = next((i for i in range(len(said)) if i >= place and word in (said[i], singular(said[i]))), -1)
            assert place >= 0


things = st.tuples(st.sampled_from(LOOKS), st.sampled_from(THINGS)).map("".join)


@given(st.lists(things, min_size=1, max_size=5), st.data())
def test_things_with_articles_and_what_lies_between_them(named: list[str], data: st.DataObject) -> None:
    text = ""
    for index, thing in enumerate(named):
        text += data.draw(st.sampled_from(BETWEEN)) if index else ""
        text += data.draw(st.sampled_from(["a ", "the ", "one ", "A ", "her "])) + thing
    assert noun_phrases(text + data.draw(st.sampled_from(["", ".", " "]))) == tuple(dict.fromkeys(named))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red apple on a green plate", ("red apple", "green plate")),
        ("two dogs and a cat to the left of a wooden bench", ("dog", "cat", "wooden bench")),
        ("a metallic spoon and a fluffy pillow", ("metallic spoon", "fluffy pillow")),
        ("a wooden desk and fluffy clouds", ("wooden desk", "fluffy cloud")),
        ("fluffy clouds and leather gloves", ("fluffy cloud", "leather glove")),
        ("a white bowl of soup", ("white bowl", "soup")),
        ("a photo of a group of people", ("person",)),
        ("3 birds, 2 mice and one cup", ("bird", "mouse", "cup")),
        ("a bee on side of a clock", ("bee", "clock")),
        ("a cow on the top of the table", ("cow", "table")),
        ("a microwave in front of a microwave", ("microwave",)),
        ("a red cross left of a blue circle", ("red cross", "blue circle")),
        ("a red top and a front door", ("red top", "front door")),
        ("The heavy hammer struck the solid nail.", ("heavy hammer", "solid nail")),
        ("The red apple sat on top of the white plate.", ("red apple", "white plate")),
        ("four boats floated on the lake", ("boat", "lake")),
        ("The apple is red and shiny.", ("apple",)),
        ("There are three dogs.", ("dog",)),
        ("A man is holding a laptop and working on a project.", ("man", "laptop", "project")),
        ("a woman wearing glasses", ("woman", "glasses")),
        ("a dog running in the park", ("dog", "park")),
        ("an oil painting of a tall building", ("oil painting", "tall building")),
        ("The small, delicate butterflies", ("small delicate butterfly",)),
        ("a cat, dog and bird", ("cat", "dog", "bird")),
        ("a butterfly and a family", ("butterfly", "family")),
        ("The lamp with its round shade glows softly.", ("lamp", "round shade glow")),  # a list has no every verb
        ("", ()),
        ("...", ()),
        ("on the left", ()),
    ],
)
def test_prompts_as_people_write_them(text: str, expected: tuple[str, ...]) -> None:
    assert noun_phrases(text) == expected


@given(st.integers(0, 2**32 - 1))
def test_the_rule_finds_what_the_drawn_worlds_prompts_name(seed: int) -> None:
    prompt = to_prompt(sample_facts(np.random.default_rng(seed)), "p", "train")
    assert noun_phrases(prompt.text) == prompt.phrases


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("dogs", "dog"),
        ("boxes", "box"),
        ("peaches", "peach"),
        ("vases", "vase"),
        ("crosses", "cross"),
        ("butterflies", "butterfly"),
        ("tomatoes", "tomato"),
        ("shoes", "shoe"),
        ("knives", "knife"),
        ("gloves", "glove"),
        ("people", "person"),
        *((word, word) for word in ("glass", "bus", "scissors", "sunglasses", "tennis", "dog's", "gas", "as", "s", "")),
    ],
)
def test_singulars_are_told_only_where_they_are_sure(plural: str, one: str) -> None:
    assert singular(plural) == one


def test_a_prompts_own_phrases_come_first() -> None:
    assert prompt_phrases(Prompt("p", "a cat on a mat", phrases=("dog",))) == ("dog",)
    assert prompt_phrases(Prompt("p", "a cat on a mat")) == ("cat", "mat")
    assert prompt_phrases(Prompt("p", "on the left")) == ()


# --- asking -----------------------------------------------------------------------------------------------------------
TEXT = "Two red dogs on a wooden bench."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("red dog\nwooden bench", ("red dog", "wooden bench")),
        ("red dog \n wooden bench", ("red dog", "wooden bench")),
        ("1. Two red dogs\n2. The wooden bench\n", ("red dog", "wooden bench")),
        ("- red dogs.\n\n* wooden bench", ("red dog", "wooden bench")),
        ("bench\nbench", ("bench",)),
    ],
)
def test_an_answer_is_read_line_by_line(answer: str, expected: tuple[str, ...]) -> None:
    assert read_phrases(Answer(answer), TEXT) == expected


@pytest.mark.parametrize(
    ("answer", "cause", "words"),
    [
        (Answer("", False), "malformed phrases", "empty"),
        (Answer(" \n "), "malformed phrases", "empty"),
        (Answer("red dog\nwooden", True), "truncated answer", "wooden"),
        (Answer("red dog\nbrown cat"), "malformed phrases", "'brown' of 'brown cat' is no word of the text"),
        (Answer("The things are: dogs"), "malformed phrases", "'things'"),
        (Answer("red dog, wooden bench"), "malformed phrases", "not one thing in a line"),
        (Answer("red dog\n---"), "malformed phrases", "not one thing in a line"),
        (Answer("none"), "malformed phrases", "'none'"),
    ],
)
def test_what_names_no_things_of_the_text_is_a_failure(answer: Answer, cause: str, words: str) -> None:
    failed = read_phrases(answer, TEXT)
    assert isinstance(failed, Failure) and failed.cause == cause and words in failed.detail


@given(st.text(max_size=60), st.text(max_size=60) | st.lists(listed, max_size=8).map("\n".join), st.booleans())
def test_any_answer_is_phrases_of_the_text_or_a_failure(text: str, answer: str, truncated: bool) -> None:
    found = read_phrases(Answer(answer, truncated), text)
    known = {form for word in words(text) for form in (word, singular(word))}
    assert isinstance(found, Failure) or (found and all(set(phrase.split(" ")) <= known for phrase in found))


class Names(OracleModel):
    """Says the same of every text."""

    def answer(self, questions, decoding=None):
        self.asked += questions
        return [Answer("dog") for _ in questions]


def test_a_text_is_asked_about_once_and_without_an_image() -> None:
    model = Names()
    found = ask_phrases(["a dog", "a cat", "a dog"], model)
    assert found[0] == found[2] == ("dog",) and isinstance(found[1], Failure)
    assert [question.text for question in model.asked] == [ASK.replace("{text}", text) for text in ("a dog", "a cat")]
    assert all(question.image is None and question.choices == () for question in model.asked)

    class Forgets(OracleModel):
        def answer(self, questions, decoding=None):
            return []

    with pytest.raises(ContractError, match="Forgets answered 0 of 1 questions"):
        ask_phrases(["a dog"], Forgets())


def test_a_label_stands_for_a_phrase_of_the_same_words() -> None:
    phrases = ("red dog", "dogs", "cat")
    for label, phrase in (("Red dog", "red dog"), ("the red dogs", "red dog"), ("dog", "dogs"), ("2 cats", "cat")):
        assert meant(label, phrases) == phrase
    for label in ("", "the", "bird", "dog red", "red"):
        assert meant(label, phrases) is None
