import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_model import OracleModel
from PIL import Image
from srum_choice.judge import ChoiceJudge, combined
from srum_choice.options import ChoiceOptions
from srum_choice.plugin import srum_judges
from srum_shapes.prompts import corrupt, parse, sample_facts, to_prompt
from srum_shapes.vocabulary import encode
from srum_shapes.world import render, scene_for

from srum_plugins.choices import with_article
from srum_plugins.contracts import Capability, Located
from srum_plugins.errors import ContractError
from srum_plugins.records import Box, Candidate, Check, Failure, Grounding, Judgement, Prompt, Region, Score

seeds = st.integers(0, 2**32 - 1)
probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def located(image: Image.Image, prompt: Prompt, name: str = "c") -> Located:
    return Located(prompt, Candidate(name, prompt.id, 0, 0, f"{name}.png", *image.size), image)


def picture(text: str, seed: int = 0) -> tuple[Image.Image, list[Region]]:
    rng = np.random.default_rng(seed)
    scene = scene_for(parse(text), rng)
    return Image.fromarray(render(scene, rng)), [Region(item.box, item.phrase) for item in scene.objects]


def judge(model: OracleModel, prompt: Prompt, image: Image.Image, *regions: Region, **options) -> Judgement:
    (found,) = ChoiceJudge(ChoiceOptions(**options)).judge(
        [located(image, prompt)], [Grounding("c", tuple(regions))], model
    )
    return found


@given(seeds)
def test_true_images_are_judged_above_false_ones(seed):
    rng = np.random.default_rng(seed)
    facts = sample_facts(rng)
    image = Image.fromarray(render(scene_for(facts, rng), rng))
    true, false = (
        judge(OracleModel(0.99), to_prompt(f, "p", ""), image).alpha.value for f in (facts, corrupt(facts, rng))
    )
    assert true > 0.9 > 0.1 > false


def test_alpha_is_the_product_of_the_demanded_answers_and_names_the_weakest():
    image, _ = picture("a red circle and a blue square")
    prompt = to_prompt(parse("a red circle and a green square"), "p", "")
    found = judge(OracleModel(0.9), prompt, image).alpha
    # Right: the red circle is there, one of it, two objects. Wrong: the green square, and one of it.
    assert found.value == pytest.approx(0.9**3 * 0.1 * 0.025)
    assert found.reason == "p = 0.025: how many green squares ? one"


def test_regions_are_asked_about_their_box_in_words_that_the_model_knows():
    text = "a red circle and a blue square"
    image, (first, second) = picture(text)
    model = OracleModel(0.9)
    swapped = Region(second.box, first.phrase)
    found = judge(model, to_prompt(parse(text), "p", ""), image, first, second, swapped)
    assert [score.value for score in found.local] == pytest.approx([0.8, 0.8, -0.8])
    asked = [question for question in model.asked if question.box is not None]
    assert [question.box for question in asked] == [first.box, second.box, second.box]
    assert asked[0].text == f"is this a {first.phrase} ?" and asked[0].choices == ("yes", "no")
    for question in model.asked:
        encode(question.text)


def test_a_region_without_phrase_takes_the_best_phrase_of_the_prompt():
    text = "a red circle and a blue square"
    image, regions = picture(text)
    found = judge(OracleModel(0.9), to_prompt(parse(text), "p", ""), image, *(Region(r.box) for r in regions))
    assert [(score.value, score.reason) for score in found.local] == [
        (pytest.approx(0.8), region.phrase) for region in regions
    ]


def test_background_is_not_asked_about():
    text = "a red circle"
    image, (region,) = picture(text)
    model = OracleModel(0.9)
    nothing = Region(Box(0, 0, 4, 4), region.phrase, background=True)
    found = judge(model, to_prompt(parse(text), "p", ""), image, nothing, region, nothing)
    assert found.local[::2] == (Score(0.0, "background"),) * 2
    assert found.local[1].value == pytest.approx(0.8)
    assert [question.box for question in model.asked if question.box is not None] == [region.box]


def test_every_question_is_kept_with_its_answer_and_no_word_is_written():
    image, (first, second) = picture("a red circle and a blue square")
    prompt = Prompt(
        "p",
        "x",
        phrases=("red circle", "blue square"),
        checks=(Check("count", "how many objects ?", ("one", "two"), "two"),),
    )
    found = judge(OracleModel(0.9), prompt, image, first, Region(second.box), Region(first.box, background=True))
    assert found.raw == (
        "how many objects ? -> p(one)=0.1, p(two)=0.9",
        "R1: is this a red circle ? -> p(yes)=0.9, p(no)=0.1",
        "R2: is this a red circle ? -> p(yes)=0.1, p(no)=0.9",
        "R2: is this a blue square ? -> p(yes)=0.9, p(no)=0.1",
    )
    assert found.tokens == 0


def test_the_wording_changes_with_each_template():
    image, _ = picture("a red circle")
    prompt = to_prompt(parse("a red circle"), "p", "")
    changes = ({}, {"region_template": "this is {phrase} ?"}, {"global_template": "{text} ?"}, {"combine": "min"})
    hashes = [judge(OracleModel(), prompt, image, **options).wording for options in changes]
    assert hashes[0] == hashes[3] and len(set(hashes)) == 3 and all(len(one) == 64 for one in hashes)


class Fixed(OracleModel):
    """Gives the same log-probabilities to every question."""

    def __init__(self, *logprobs: float) -> None:
        super().__init__()
        self.logprobs = logprobs

    def choice_logprobs(self, questions):
        self.asked += questions
        return [self.logprobs for _ in questions]


def test_a_prompt_without_checks_and_phrases():
    model = Fixed(math.log(0.7), math.log(0.3))
    found = judge(model, Prompt("q", "on the left"), Image.new("RGB", (32, 32)), Region(Box(0, 0, 4, 4)))
    assert [question.text for question in model.asked] == ["Does the image show: on the left?"]
    assert found.alpha.value == pytest.approx(0.7)
    assert found.local == (Failure("no phrase", "neither the region nor its prompt names one"),)
    # What a text names is found by the rule.
    found = judge(model, Prompt("q", "a cat on a mat"), Image.new("RGB", (32, 32)), Region(Box(0, 0, 4, 4)))
    assert [question.text for question in model.asked[2:]] == ["is this a cat ?", "is this a mat ?"]
    assert [(score.value, score.reason) for score in found.local] == [(pytest.approx(0.4), "cat")]


@pytest.mark.parametrize("logprobs", [(math.nan, 0.0), (-1.0, -9.0), (0.0,), (math.inf, 0.0), (800.0, 0.0)])
def test_answers_that_are_no_probabilities_are_failures(logprobs):
    found = judge(Fixed(*logprobs), Prompt("q", "a cat"), Image.new("RGB", (32, 32)), Region(Box(0, 0, 4, 4), "cat"))
    assert isinstance(found.alpha, Failure)
    assert len(found.local) == 1 and isinstance(found.local[0], Failure)
    assert [line.partition(" -> ")[2].partition(":")[0] for line in found.raw] == [found.alpha.cause] * 2


def test_an_impossible_answer_is_a_probability_and_rounding_stays_in_range():
    found = judge(
        Fixed(1e-5, -math.inf), Prompt("q", "a cat"), Image.new("RGB", (32, 32)), Region(Box(0, 0, 4, 4), "cat")
    )
    assert found.alpha == Score(1.0, "p = 1.000: Does the image show: a cat? yes")
    assert found.local == (Score(1.0, "cat"),)


def test_items_judged_together_are_judged_as_alone():
    texts = ["a red circle above a blue square", "three green triangles", "a black cross and a yellow circle"]
    items, groundings = [], []
    for index, text in enumerate(texts):
        image, regions = picture(text, index)
        items.append(located(image, to_prompt(parse(texts[index - 1]), f"p{index}", ""), f"c{index}"))
        groundings.append(Grounding(f"c{index}", tuple(regions)))
    judge = ChoiceJudge(ChoiceOptions())
    together = judge.judge(items, groundings, OracleModel())
    assert together == [
        judge.judge([item], [grounding], OracleModel())[0] for item, grounding in zip(items, groundings, strict=True)
    ]
    assert [found.candidate_id for found in together] == ["c0", "c1", "c2"]


@given(probabilities)
def test_ways_to_combine_stay_in_range_and_in_order(values):
    product, geometric, mean, least = (combined(values, how) for how in ("product", "geometric", "mean", "min"))
    assert 0 <= product <= least * (1 + 1e-12) <= 1 + 1e-9
    assert product <= geometric * (1 + 1e-12) <= mean * (1 + 1e-9) + 1e-12
    assert least <= mean * (1 + 1e-12)
    assert max(geometric, mean) <= 1


@given(probabilities, st.integers(0, 5), st.floats(0, 1))
def test_ways_to_combine_never_fall_when_a_fact_rises(values, index, value):
    index %= len(values)
    raised = [*values[:index], max(value, values[index]), *values[index + 1 :]]
    for how in ("product", "geometric", "mean", "min"):
        assert combined(raised, how) >= combined(values, how) * (1 - 1e-12)


def test_articles():
    alone = ("the sea", "A dog", "two dogs", "2 dogs", "her hat")
    assert [with_article(phrase) for phrase in ("red circle", "orange cat", *alone)] == [
        "a red circle",
        "an orange cat",
        *alone,
    ]


def test_options_and_provider():
    with pytest.raises(ValueError, match="region_template must contain"):
        ChoiceOptions(region_template="is it there ?")
    with pytest.raises(ValueError, match="global_template must contain"):
        ChoiceOptions(global_template="good ?")
    (provider,) = srum_judges()
    assert provider.needs(ChoiceOptions()) == {Capability.CHOICE}
    assert isinstance(provider.factory(ChoiceOptions()), ChoiceJudge)
    with pytest.raises(ContractError, match="needs a model"):
        provider.factory(ChoiceOptions()).judge([], [], None)
