"""Judging by questions with choices: what is asked about each region of an image, and the local score that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

from srum_plugins.choices import REGION_TEMPLATE, ask, region_question
from srum_plugins.contracts import Located, ModelAdapter, Question
from srum_plugins.marking import region_name
from srum_plugins.phrases import prompt_phrases
from srum_plugins.records import BACKGROUND, Failure, Grounding, Prompt, Region, Score

Answered = tuple[float, ...] | Failure
"""The probabilities of a question's choices, or why there are none."""


@dataclass(frozen=True)
class Heard:
    """What a model answered about one image: the answers to the facts that were asked, a local score for each region,
    and a line for every question with its answer, facts first; lines about a region begin with its name."""

    facts: tuple[Answered, ...]
    local: tuple[Score | Failure, ...]
    lines: tuple[str, ...]


def ask_images(
    model: ModelAdapter,
    items: Sequence[Located],
    groundings: Sequence[Grounding],
    facts: Sequence[Sequence[Question]],
    template: str = REGION_TEMPLATE,
) -> list[Heard]:
    """Ask ``facts`` about each image, and whether each of its regions shows its phrase: all in one call."""
    regions = [
        [region_questions(template, item, region) for region in grounding.regions]
        for item, grounding in zip(items, groundings, strict=True)
    ]
    pairs = zip(facts, regions, strict=True)
    questions = [question for own, about in pairs for question in (*own, *chain.from_iterable(about))]
    answers = iter(ask(model, questions))
    found = []
    for item, grounding, own, about in zip(items, groundings, facts, regions, strict=True):
        given = tuple(islice(answers, len(own)))
        lines, local = [told(*each) for each in zip(own, given, strict=True)], []
        for index, (region, asked) in enumerate(zip(grounding.regions, about, strict=True)):
            shown = tuple(islice(answers, len(asked)))
            local.append(region_score(region, item.prompt, shown))
            lines += [f"{region_name(index)}: {told(*each)}" for each in zip(asked, shown, strict=True)]
        found.append(Heard(given, tuple(local), tuple(lines)))
    return found


def region_phrases(region: Region, prompt: Prompt) -> tuple[str, ...]:
    """What a region is asked about: its phrase, or else every thing that the prompt names. Background is not asked
    about."""
    if region.background:
        return ()
    return (region.phrase,) if region.phrase else prompt_phrases(prompt)


def region_questions(template: str, item: Located, region: Region) -> tuple[Question, ...]:
    """A question of yes or no for each phrase of :func:`region_phrases`."""
    phrases = region_phrases(region, item.prompt)
    return tuple(region_question(template, item.image, region.box, phrase) for phrase in phrases)


def region_score(region: Region, prompt: Prompt, answers: Sequence[Answered]) -> Score | Failure:
    """The local score 2 p(yes) - 1, in [-1, 1], from the answers to :func:`region_questions`: that of the phrase which
    fits best, with it as the reason. Background has 0; a region without any phrase is a Failure."""
    if region.background:
        return BACKGROUND
    scores: list[Score] = []
    for phrase, answered in zip(region_phrases(region, prompt), answers, strict=True):
        if isinstance(answered, Failure):
            return answered
        scores.append(Score(2 * answered[0] - 1, phrase))
    if not scores:
        return Failure("no phrase", "neither the region nor its prompt names one")
    return max(scores, key=lambda score: score.value)


def told(question: Question, answered: Answered) -> str:
    """A question with its answer in one line, such as ``is it red ? -> p(yes)=0.93, p(no)=0.07``."""
    if isinstance(answered, Failure):
        return f"{question.text} -> {answered.cause}: {answered.detail}"
    shares = [f"p({choice})={value:.4g}" for choice, value in zip(question.choices, answered, strict=True)]
    return f"{question.text} -> {', '.join(shares)}"


def check_template(template: str) -> None:
    """Raises ValueError for a template of region questions that does not name the phrase."""
    if "{phrase}" not in template:
        raise ValueError(f"region_template must contain {{phrase}}, got {template!r}")
