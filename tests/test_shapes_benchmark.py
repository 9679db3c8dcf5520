import numpy as np
import pytest
from oracle_model import OracleModel
from PIL import Image
from srum_shapes.benchmark import ShapesBenchmark, box_agreement, fixed_questions
from srum_shapes.options import BenchmarkOptions, PromptSetOptions
from srum_shapes.plugin import srum_benchmarks, srum_prompt_sets
from srum_shapes.prompts import parse
from srum_shapes.questions import WEIGHTS
from srum_shapes.world import render, scene_for

from srum_plugins.contracts import GREEDY, Answer, Capability
from srum_plugins.records import Box, Failure


class SureOfNo(OracleModel):
    """Answers no, or the last choice, to everything; says and finds nothing."""

    def choice_logprobs(self, questions):
        return [(-9.0,) * (len(question.choices) - 1) + (0.0,) for question in questions]

    def answer(self, questions, decoding=GREEDY):
        return [Answer("")] * len(questions)

    def locate(self, images, phrases):
        return [[] for _ in images]


@pytest.fixture(scope="module")
def benchmark() -> ShapesBenchmark:
    return ShapesBenchmark(BenchmarkOptions(prompts_per_split=40, questions=160))


def test_pictures_of_the_prompts_are_right_and_others_are_not(benchmark):
    prompts = benchmark.prompts()
    assert [prompt.split for prompt in prompts] == ["in_domain"] * 40 + ["out_of_domain"] * 40
    rng = np.random.default_rng(0)
    images = [Image.fromarray(render(scene_for(parse(prompt.text), rng), rng)) for prompt in prompts]
    verdicts = benchmark.score(prompts, images)
    assert [verdict.prompt_id for verdict in verdicts] == [prompt.id for prompt in prompts]
    assert all(verdict.values == {"full": 1.0, "graded": 1.0} for verdict in verdicts)
    moved = benchmark.score(prompts, images[1:] + images[:1])
    assert np.mean([verdict.values["full"] for verdict in moved]) < 0.05


def test_a_model_that_sees_everything_has_full_marks(benchmark):
    report = benchmark.understanding(OracleModel())
    assert report.accuracy == dict.fromkeys(WEIGHTS, 1.0)
    assert report.questions == dict.fromkeys(WEIGHTS, 20)


def test_a_model_that_sees_nothing_has_not(benchmark):
    accuracy = benchmark.understanding(SureOfNo()).accuracy
    assert accuracy["colour"] == accuracy["shape"] == 0.0
    assert 0.2 < accuracy["existence"] < 0.8 and 0.2 < accuracy["region"] < 0.8
    assert accuracy["count"] < 0.4 and accuracy["total"] < 0.6 and accuracy["relation"] < 0.6
    assert accuracy["grounding"] < 0.5


def test_an_unreadable_answer_is_worth_nothing(benchmark):
    class Stutters(OracleModel):
        def locate(self, images, phrases):
            return [[*regions, Failure("malformed boxes")] for regions in super().locate(images, phrases)]

    assert benchmark.understanding(Stutters()).accuracy["grounding"] == 0.0


def test_an_answer_that_was_cut_off_is_wrong(benchmark):
    class RunsOn(OracleModel):
        def answer(self, questions, decoding=GREEDY):
            return [Answer(answer.text, truncated=True) for answer in super().answer(questions)]

    accuracy = benchmark.understanding(RunsOn()).accuracy
    assert accuracy["colour"] == accuracy["shape"] == 0.0 and accuracy["existence"] == accuracy["grounding"] == 1.0


def test_what_an_answer_took_is_no_part_of_it(benchmark):
    class Counts(OracleModel):
        def answer(self, questions, decoding=GREEDY):
            return [Answer(answer.text, tokens=3) for answer in super().answer(questions)]

    assert benchmark.understanding(Counts()).accuracy == dict.fromkeys(WEIGHTS, 1.0)


def test_understanding_can_be_left_out():
    assert ShapesBenchmark(BenchmarkOptions(questions=0)).understanding(OracleModel()) is None


def test_questions_are_fixed_by_the_seed():
    def texts(seed):
        return [item.question for pairs in fixed_questions(80, seed).values() for _, item in pairs]

    assert texts(0) == texts(0) != texts(1)


def test_box_agreement():
    a, b = Box(0, 0, 4, 4), Box(10, 10, 14, 14)
    assert box_agreement([], []) == 1.0
    assert box_agreement([a], []) == box_agreement([], [a]) == 0.0
    assert box_agreement([b, a], [a, b]) == 1.0
    assert box_agreement([a], [a, b]) == box_agreement([a, b], [a]) == 0.5
    assert box_agreement([a, a], [a, b]) == 0.5


def test_the_providers_build_what_they_announce():
    (prompts,), (benchmark,) = srum_prompt_sets(), srum_benchmarks()
    train = prompts.factory(PromptSetOptions(count=1000)).prompts()
    validation = prompts.factory(PromptSetOptions(count=100, split="validation", categories=("spatial",))).prompts()
    assert len({prompt.id for prompt in train + validation}) == 1100
    assert {prompt.category for prompt in validation} == {"spatial"}
    held = benchmark.factory(BenchmarkOptions()).prompts()
    assert len(held) == 960
    texts = [{prompt.text for prompt in group} for group in (train, validation, held)]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert benchmark.needs(BenchmarkOptions()) == {Capability.ANSWER, Capability.CHOICE, Capability.LOCATE}
    assert benchmark.needs(BenchmarkOptions(questions=0)) == frozenset()
