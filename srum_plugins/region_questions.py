"""The question whether a region shows its phrase, and the local score that its answer makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

from PIL import Image

from srum_plugins.choice_answers import YES_NO, Answered, ask, told
from srum_plugins.contracts import Located, ModelAdapter, Question
from srum_plugins.marking import region_name
from srum_plugins.records import Failure, Grounding, Prompt, Region, Score

TEMPLATE = "is this {phrase} ?"
"""Asked about the region's box, and answered by yes or no; ``{phrase}`` becomes the phrase with its article."""
ARTICLES = ("a", "an", "the")


def check_template(template: str) -> None:
    """Raises ValueError for a template that does not name the phrase."""
    if "{phrase}" not in template:
        raise ValueError(f"region_template must contain {{phrase}}, got {template!r}")


def region_phrases(region: Region, prompt: Prompt) -> tuple[str, ...]:
    """What a region is asked about: its phrase, or else every phrase of the prompt. Background is not asked about."""
    if region.background:
        return ()
    return (region.phrase,) if region.phrase else prompt.phrases


def region_questions(
    image: Image.Image, region: Region, prompt: Prompt, template: str = TEMPLATE
) -> tuple[Question, ...]:
    """One question of yes or no for each phrase of :func:`region_phrases`."""
    texts = [template.replace("{phrase}", with_article(phrase)) for phrase in region_phrases(region, prompt)]
    return tuple(Question(image, text, YES_NO, region.box) for text in texts)


def region_score(region: Region, prompt: Prompt, answers: Sequence[Answered]) -> Score | Failure:
    """The local score 2 p(yes) - 1, in [-1, 1], from the answers to :func:`region_questions`: that of the phrase which
    fits best, with it as the reason. Background has 0; a region without any phrase is a Failure."""
    if region.background:
        return Score(0.0, "background")
    scores: list[Score] = []
    for phrase, answered in zip(region_phrases(region, prompt), answers, strict=True):
        if isinstance(answered, Failure):
            return answered
        scores.append(Score(2 * answered[0] - 1, phrase))
    if not scores:
        return Failure("no phrase", "neither the region nor its prompt names one")
    return max(scores, key=lambda score: score.value)


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
    template: str = TEMPLATE,
) -> list[Heard]:
    """Ask ``facts`` about each image, and whether each of its regions shows its phrase: all in one call."""
    regions = [
        [region_questions(item.image, region, item.prompt, template) for region in grounding.regions]
        for item, grounding in zip(items, groundings, strict=True)
    ]
    pairs = list(zip(facts, regions, strict=True))
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


def with_article(phrase: str) -> str:
    """The phrase with ``a`` or ``an`` before it, unless it has an article."""
    if phrase.split(" ")[0].lower() in ARTICLES:
        return phrase
    return f"{'an' if phrase[:1].lower() in tuple('aeiou') else 'a'} {phrase}"
