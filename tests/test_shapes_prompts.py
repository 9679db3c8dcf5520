from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from srum_shapes import oracle
from srum_shapes.prompts import (
    CATEGORIES,
    CORRUPTIONS,
    HELD_OUT,
    PAIRS,
    SPLITS,
    Facts,
    Group,
    all_facts,
    contradicts,
    corrupt,
    parse,
    prompt_list,
    sample_facts,
    split_of,
)
from srum_shapes.vocabulary import encode
from srum_shapes.world import render, scene_for

from srum_plugins.errors import ConfigError, ContractError
from srum_plugins.records import Prompt, from_json, to_json

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_captions_and_facts_are_exact_inverses(seed):
    rng = np.random.default_rng(seed)
    facts = sample_facts(rng)
    assert parse(facts.text) == facts
    noisy = corrupt(facts, rng)
    assert parse(noisy.text) == noisy
    encode(noisy.text)


@pytest.mark.parametrize("category", [*CATEGORIES, "single"])
def test_captions_of_a_category_are_distinct_and_of_that_category(category):
    texts = [facts.text for stratum in all_facts(category) for facts in stratum]
    assert len(set(texts)) == len(texts)
    assert {facts.category for stratum in all_facts(category) for facts in stratum} == {category}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("a red circle and a blue square", Facts((Group(1, "red", "circle"), Group(1, "blue", "square")))),
        ("three green crosses", Facts((Group(3, "green", "cross"),))),
        (
            "a red circle left of a blue square and two green triangles",
            Facts((Group(1, "red", "circle"), Group(1, "blue", "square"), Group(2, "green", "triangle")), "left"),
        ),
    ],
)
def test_wording(text, facts):
    assert facts.text == text
    assert parse(text) == facts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "red circle",
        "a red circles",
        "two red circle",
        "a pink circle",
        "five red circles",
        "a red circle and a red circle",
        "a red circle above two blue squares",
        "a red circle left of a blue square left of a green cross",
        "a red circle  and a blue square",
    ],
)
def test_other_texts_are_no_captions(text):
    with pytest.raises(ContractError):
        parse(text)


@settings(max_examples=200)
@given(seeds)
def test_corrupted_captions_are_false_of_the_scene(seed):
    rng = np.random.default_rng(seed)
    facts = sample_facts(rng)
    noisy = corrupt(facts, rng)
    assert contradicts(facts, noisy) and contradicts(noisy, facts)
    picture = render(scene_for(facts, rng), rng)
    assert oracle.score(facts, picture)["full"] == 1
    assert oracle.score(noisy, picture)["full"] == 0


def test_every_kind_of_corruption_occurs():
    facts = parse("a red circle above a blue square and a green cross")
    for name, kind in CORRUPTIONS.items():
        assert any(contradicts(facts, other) for other in kind(facts)), name


def test_a_relation_told_the_other_way_round_is_no_contradiction():
    assert not contradicts(parse("a red circle above a blue square"), parse("a blue square below a red circle"))
    assert contradicts(parse("a red circle above a blue square"), parse("a blue square above a red circle"))


def test_held_out_pairs_are_a_fifth_and_spread():
    assert 0.18 < len(HELD_OUT) / len(PAIRS) < 0.22
    assert len({colour for colour, _ in HELD_OUT}) == 5
    assert len({shape for _, shape in HELD_OUT}) == 4


@pytest.fixture(scope="module")
def lists() -> dict[str, list[Prompt]]:
    return {split: prompt_list({"train": 1200, "validation": 200}.get(split, 480), 0, split) for split in SPLITS}


def test_prompt_lists_are_large_distinct_and_disjoint_in_meaning(lists):
    for split, prompts in lists.items():
        assert len({prompt.id for prompt in prompts}) == len({prompt.text for prompt in prompts}) == len(prompts)
        assert {prompt.category for prompt in prompts} == set(CATEGORIES)
        assert {prompt.split for prompt in prompts} == {split}
        for prompt in prompts:
            named = {tuple(phrase.split()) for phrase in prompt.phrases}
            assert bool(named & HELD_OUT) == (split == "out_of_domain")
    meanings = {
        split: {(frozenset(parse(p.text).counts.items()), parse(p.text).related) for p in prompts}
        for split, prompts in lists.items()
    }
    assert all(not meanings[a] & meanings[b] for a, b in combinations(SPLITS, 2))


def test_captions_of_one_meaning_have_one_split():
    splits: dict[object, set[str]] = {}
    for category in CATEGORIES[:-1]:
        for facts in chain.from_iterable(all_facts(category)):
            splits.setdefault((frozenset(facts.counts.items()), facts.related), set()).add(split_of(facts))
    assert all(len(of) == 1 for of in splits.values())
    assert set().union(*splits.values()) == set(SPLITS)


def test_prompt_lists_depend_on_the_seed_only(lists):
    assert prompt_list(480, 0, "in_domain") == lists["in_domain"]
    assert prompt_list(480, 1, "in_domain") != lists["in_domain"]


def test_prompts_carry_true_checks_in_known_words(lists):
    for prompt in lists["out_of_domain"][:200]:
        facts = parse(prompt.text)
        kinds = [check.kind for check in prompt.checks]
        groups = len(facts.groups)
        assert kinds == ["existence"] * groups + ["count"] * groups + ["total"] + ["relation"] * bool(facts.relation)
        for check in prompt.checks:
            encode(f"{check.question} {' '.join(check.choices)}")
        assert from_json(Prompt, to_json(prompt)) == prompt


def test_too_many_prompts_and_unknown_categories_are_refused():
    with pytest.raises(ConfigError, match=r"only \d+ distinct prompts"):
        prompt_list(10_000, 0, "train", ["colour"])
    with pytest.raises(ConfigError, match="Did you mean 'spatial'"):
        prompt_list(10, 0, "train", ["spacial"])
