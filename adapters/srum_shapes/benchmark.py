"""The drawn world as a benchmark: the oracle reads what was generated, and fresh scenes test what is understood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from srum_plugins.contracts import Answer, Benchmark, ModelAdapter, Question, UnderstandingReport, Verdict
from srum_plugins.errors import ContractError
from srum_plugins.records import Box, Failure, Prompt, Region
from srum_shapes import oracle
from srum_shapes.options import BenchmarkOptions
from srum_shapes.prompts import NUMBERS, parse, prompt_list
from srum_shapes.questions import WEIGHTS, Item, grounded_phrase, parse_boxes, sample_item, split_box
from srum_shapes.world import RELATIONS, SIDE, render, sample_scene

CHOICES: Mapping[str, tuple[str, ...]] = {
    "existence": ("yes", "no"),
    "region": ("yes", "no"),
    "relation": RELATIONS,
    "count": NUMBERS,
    "total": NUMBERS[1:],
}
"""Kinds of questions with given answers. The other kinds are answered in the model's own words or boxes."""


class ShapesBenchmark(Benchmark):
    """``full`` and ``graded`` of :func:`srum_shapes.oracle.score`, in-domain and out-of-domain."""

    size = (SIDE, SIDE)

    def __init__(self, options: BenchmarkOptions) -> None:
        self._options = options

    def prompts(self) -> list[Prompt]:
        """``prompts_per_split`` prompts of each split, all of different text."""
        count, seed = self._options.prompts_per_split, self._options.seed
        return prompt_list(count, seed, "in_domain") + prompt_list(count, seed, "out_of_domain")

    def score(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], model: ModelAdapter | None = None
    ) -> list[Verdict]:
        """What the oracle says of pictures of 32 x 32 pixels, by the captions of their prompts."""
        return [
            Verdict(prompt.id, oracle.score(parse(prompt.text), np.asarray(image.convert("RGB"))))
            for prompt, image in zip(prompts, images, strict=True)
        ]

    def understanding(self, model: ModelAdapter) -> UnderstandingReport | None:
        """Share of right answers by kind, each question of a scene of its own. ``grounding`` is the mean IoU of the
        boxes found with the true ones, the best pairs taken, unpaired boxes and unreadable answers counted
        as 0."""
        if self._options.questions == 0:
            return None
        asked = fixed_questions(self._options.questions, self._options.seed)
        return UnderstandingReport(
            accuracy={kind: float(np.mean(_marks(kind, pairs, model))) for kind, pairs in asked.items()},
            questions={kind: len(pairs) for kind, pairs in asked.items()},
        )


def fixed_questions(count: int, seed: int) -> dict[str, list[tuple[Image.Image, Item]]]:
    """At least ``count`` questions, equally many of each kind, on fresh renders; always the same for a seed."""
    asked: dict[str, list[tuple[Image.Image, Item]]] = {}
    for index, kind in enumerate(WEIGHTS):
        rng = np.random.default_rng([seed, index])
        pairs = asked[kind] = []
        while len(pairs) < -(-count // len(WEIGHTS)):
            scene = sample_scene(rng)
            item = sample_item(scene, rng, kind)
            if item is not None:
                pairs.append((Image.fromarray(render(scene, rng)), item))
    return asked


def _marks(kind: str, pairs: Sequence[tuple[Image.Image, Item]], model: ModelAdapter) -> list[float]:
    """A mark in [0, 1] for each question of one kind."""
    images = [image for image, _ in pairs]
    items = [item for _, item in pairs]
    if kind == "grounding":
        found = model.locate(images, [(grounded_phrase(item.question),) for item in items])
        return [_grounding_mark(regions, item) for regions, item in zip(found, items, strict=True)]
    choices = CHOICES.get(kind, ())
    questions = [_question(image, item, choices) for image, item in pairs]
    if choices:
        answers = [Answer(choices[int(np.argmax(row))]) for row in model.choice_logprobs(questions)]
    else:
        answers = model.answer(questions)
    return [float(answer == Answer(item.answer)) for answer, item in zip(answers, items, strict=True)]


def _question(image: Image.Image, item: Item, choices: tuple[str, ...]) -> Question:
    text, box = split_box(item.question)
    return Question(image, text, choices, box)


def _grounding_mark(found: Sequence[Region | Failure], item: Item) -> float:
    true = parse_boxes(item.answer)
    if isinstance(true, Failure):
        raise ContractError(f"a question of the benchmark has a broken answer: {true}")
    boxes = [region.box for region in found if isinstance(region, Region)]
    return box_agreement(boxes, true) if len(boxes) == len(found) else 0.0


def box_agreement(found: Sequence[Box], true: Sequence[Box]) -> float:
    """Sum of the IoUs of the best one-to-one pairs over the larger number of boxes; 1 if there are none at all."""
    if not found or not true:
        return float(not found and not true)
    ious = np.array([[box.iou(other) for other in true] for box in found])
    return float(ious[linear_sum_assignment(ious, maximize=True)].sum() / max(ious.shape))
