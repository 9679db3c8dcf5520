"""The paper's filter: proposals that the model's own understanding does not find in the prompt (arXiv 2510.12784)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from srum_plugins.choices import ask, region_question
from srum_plugins.config import GroundSection
from srum_plugins.contracts import Located, ModelAdapter
from srum_plugins.records import Failure, Grounding, Prompt, Region
from srum_plugins.region_questions import region_phrases

NOT_IN_PROMPT = "not in prompt"
"""Why a region was dropped that shows nothing of the prompt."""


def filtered(
    items: Sequence[Located], groundings: Sequence[Grounding], model: ModelAdapter, settings: GroundSection
) -> list[Grounding]:
    """The groundings with the regions that show what their prompts name, in order; see :func:`decided`.

    All questions of all items go to the model in one call, which must be able to CHOICE. What is dropped is counted
    with the grounder's own counts: as :data:`NOT_IN_PROMPT`, or by the cause of an answer that is no probability.
    Regions that the grounder itself calls background are neither asked about nor dropped.
    """
    questions = [
        region_question(settings.template, item.image, region.box, phrase)
        for item, grounding in zip(items, groundings, strict=True)
        for region in grounding.regions
        for phrase in _phrases(region, item.prompt)
    ]
    found = iter(ask(model, questions))
    return [
        _grounding(grounding, item.prompt, found, settings) for item, grounding in zip(items, groundings, strict=True)
    ]


def decided(
    region: Region, phrases: Sequence[str], answers: Sequence[tuple[float, ...] | Failure], settings: GroundSection
) -> Region | Failure:
    """The region with the phrase that it most probably shows, if the probability is at least the threshold.

    Args:
        region: as the grounder proposed it.
        phrases: those that it was asked about, at least one.
        answers: the probabilities of yes and no for each of them.

    Returns:
        The region with that phrase; else, without a phrase as background, or a Failure (:data:`NOT_IN_PROMPT`), as the
        settings say. An answer that is a Failure is the result: nothing is known then.
    """
    best, shown = -1.0, ""
    for phrase, answer in zip(phrases, answers, strict=True):
        if isinstance(answer, Failure):
            return answer
        if answer[0] > best:
            best, shown = answer[0], phrase
    if best >= settings.threshold:
        return replace(region, phrase=shown)
    if settings.filter == "background":
        return replace(region, phrase="", background=True)
    return Failure(NOT_IN_PROMPT, f"p = {best:.3f}: {shown}")


def _phrases(region: Region, prompt: Prompt) -> tuple[str, ...]:
    """What a region is asked about; a prompt that names no thing is asked about as a whole."""
    return () if region.background else region_phrases(region, prompt) or (prompt.text,)


def _grounding(
    grounding: Grounding, prompt: Prompt, found: Iterator[tuple[float, ...] | Failure], settings: GroundSection
) -> Grounding:
    """One grounding from the answers about its regions, which are next in ``found``."""
    kept: list[Region] = []
    dropped = Counter(grounding.dropped)
    for region in grounding.regions:
        phrases = _phrases(region, prompt)
        answers = list(islice(found, len(phrases)))
        result = decided(region, phrases, answers, settings) if phrases else region
        if isinstance(result, Failure):
            dropped[result.cause] += 1
        else:
            kept.append(result)
    return Grounding(grounding.candidate_id, tuple(kept), dict(dropped))
