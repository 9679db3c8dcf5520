"""A model that understands by the oracle: for tests of what asks models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from srum_shapes import oracle
from srum_shapes.prompts import NUMBERS
from srum_shapes.questions import COLOUR_QUESTION, SHAPE_QUESTION
from srum_shapes.world import SceneObject, relation

from srum_plugins.contracts import GREEDY, Answer, Decoding, ModelAdapter, Question
from srum_plugins.records import Failure, Region


def seen(image: Image.Image) -> list[SceneObject]:
    return oracle.read(np.asarray(image))


def noun(plural: str) -> str:
    return plural.removesuffix("es") if plural == "crosses" else plural.removesuffix("s")


class OracleModel(ModelAdapter):
    """``sure`` is the probability of the answer that it holds true. ``asked`` collects every question."""

    def __init__(self, sure: float = 0.9) -> None:
        self.sure = sure
        self.asked: list[Question] = []

    def answer(self, questions: Sequence[Question], decoding: Decoding = GREEDY) -> list[Answer]:
        self.asked += questions
        return [Answer(self._answer(question)) for question in questions]

    def choice_logprobs(self, questions: Sequence[Question]) -> list[tuple[float, ...]]:
        rows = []
        for question, true in zip(questions, self.answer(questions), strict=True):
            rest = (1 - self.sure) / (len(question.choices) - 1)
            rows.append(tuple(math.log(self.sure if choice == true.text else rest) for choice in question.choices))
        return rows

    def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region | Failure]]:
        return [
            [Region(item.box, phrase, 0.5) for phrase in row for item in seen(image) if item.phrase == phrase]
            for image, row in zip(images, phrases, strict=True)
        ]

    def _answer(self, question: Question) -> str:
        objects, words = seen(question.image), question.text.split()
        if question.box is not None:
            box = question.box
            target = max(objects, key=lambda item: item.box.iou(box))
            if question.text == COLOUR_QUESTION:
                return target.colour
            if question.text == SHAPE_QUESTION:
                return target.shape
            assert words[:3] == ["is", "this", "a"] and words[-1] == "?", question.text
            return "yes" if target.box.iou(box) > 0.4 and target.phrase == " ".join(words[3:-1]) else "no"
        if words[:3] == ["is", "there", "a"]:
            return "yes" if any(item.phrase == " ".join(words[3:-1]) for item in objects) else "no"
        if question.text == "how many objects ?":
            return NUMBERS[len(objects)]
        if words[:2] == ["how", "many"]:
            return NUMBERS[sum(item.pair == (words[2], noun(words[3])) for item in objects)]
        assert words[:3] == ["where", "is", "the"], question.text
        first = [item.box for item in objects if item.phrase == " ".join(words[3:5])]
        second = [item.box for item in objects if item.phrase == " ".join(words[7:9])]
        return (relation(first[0], second[0]) if first and second else None) or "left"
