"""Asks T2I-ReasonBench's questions about the images made for its prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from PIL import Image
from srum_compbench.asking import Asked, Asking
from srum_rubric.parsing import without_thoughts
from srum_rubric.wording import filled

from srum_plugins.contracts import Answer, Benchmark, Composite, ModelAdapter, Question, Verdict
from srum_plugins.records import Failure, Prompt, total
from srum_plugins.runs.fingerprint import stable_seed
from srum_reasonbench.data import COMPOSITES, FILES, QUALITY, QUALITY_GROUP, Group, Item, read_items
from srum_reasonbench.options import ReasonBenchOptions
from srum_reasonbench.scoring import read_scores, weighted_mean
from srum_reasonbench.wording import QUESTION

NO_DESCRIPTION = "no description"

Scores = tuple[float, ...]


class ReasonBenchmark(Benchmark):
    """``full`` is the reasoning score of an image, ``quality`` its quality score, both in [0, 1].

    First the judge describes the image. Then each group of questions is asked with that description, and without the
    groups before it. The judge never sees the prompt.
    """

    def __init__(self, options: ReasonBenchOptions) -> None:
        self._options = options
        self._items: Mapping[str, Item] = {item.prompt.id: item for item in read_items(options)}
        self._asking = Asking(options)
        self.asks_model = options.endpoint is None

    def prompts(self) -> list[Prompt]:
        """Those of the dimensions that the options name."""
        return [item.prompt for item in self._items.values()]

    def composites(self) -> Sequence[Composite]:
        """The means of the four dimensions, and the quality of each."""
        return COMPOSITES

    def score(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], model: ModelAdapter | None
    ) -> list[Verdict]:
        """All images are described in one call, and all groups of all images asked in the next. An image that has no
        description has no figure."""
        described = self._asking.ask(
            [
                Question(image, self._options.describe, seed=stable_seed("describe", prompt.id))
                for prompt, image in zip(prompts, images, strict=True)
            ],
            [_read_description] * len(prompts),
            model,
        )
        places: list[tuple[int, Group]] = []
        questions: list[Question] = []
        for index, (prompt, image, description) in enumerate(zip(prompts, images, described, strict=True)):
            if isinstance(description.result, Failure):
                continue
            for group in self._items[prompt.id].groups:
                asked = {"description": description.result, "questions": _listed(group)}
                seed = stable_seed("group", prompt.id, group.name)
                places.append((index, group))
                questions.append(Question(image, filled(self._options.template, asked), seed=seed))
        readers = [partial(read_scores, count=len(group.questions)) for _, group in places]
        answered = self._asking.ask(questions, readers, model)
        groups: list[dict[str, Asked[Scores]]] = [{} for _ in prompts]
        for (index, group), one in zip(places, answered, strict=True):
            groups[index][group.name] = one
        return [
            _verdict(prompt, description, own)
            for prompt, description, own in zip(prompts, described, groups, strict=True)
        ]


def _read_description(answer: Answer) -> str | Failure:
    said = without_thoughts(answer.text)
    return (said or "").strip() or Failure(NO_DESCRIPTION, "nothing is said" if said is not None else "only a thought")


def _listed(group: Group) -> str:
    pairs = zip(group.questions, group.criteria, strict=True)
    return "\n".join(
        filled(QUESTION, {"number": str(number), "question": question, "criterion": criterion})
        for number, (question, criterion) in enumerate(pairs, start=1)
    )


def _verdict(prompt: Prompt, description: Asked[str], groups: Mapping[str, Asked[Scores]]) -> Verdict:
    asked: list[Asked[str] | Asked[Scores]] = [description, *groups.values()]
    raw = tuple(text for one in asked for text in one.raw)
    tokens = total(one.tokens for one in asked)
    if isinstance(description.result, Failure):
        return Verdict(prompt.id, {}, dict.fromkeys(("full", QUALITY), description.result), raw, tokens)
    values: dict[str, float] = {}
    failures: dict[str, Failure] = {}
    for name, weights in (("full", FILES[prompt.category].reasoning), (QUALITY, {QUALITY_GROUP: 1.0})):
        found = figure({group: groups[group].result for group in weights}, weights)
        if isinstance(found, Failure):
            failures[name] = found
        else:
            values[name] = found
    return Verdict(prompt.id, values, failures, raw, tokens)


def figure(groups: Mapping[str, Scores | Failure], weights: Mapping[str, float]) -> float | Failure:
    """The weighted mean of groups' means; the first failure where one has no scores, since the others alone would be
    another measure."""
    known: dict[str, Scores] = {}
    for name in weights:
        result = groups[name]
        if isinstance(result, Failure):
            return Failure(result.cause, f"{name}: {result.detail}")
        known[name] = result
    return weighted_mean(known, weights)
