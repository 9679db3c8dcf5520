"""Checks of what a model says about images: open answers, choices and boxes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
import torch
from PIL import Image

from srum_plugins.contracts import Answer, Capability, Decoding, Question
from srum_plugins.records import Box, Failure, Region
from srum_plugins.testing.adapter_suite import CHOICES, AdapterSubject, AdapterSuite
from srum_plugins.testing.painted import painted
from srum_plugins.testing.suite import RELATIVE, in_first_pixel

T = TypeVar("T")
Found = list[Region | Failure]

LOGS = 1e-4
"""By how much a log-probability may differ when sums are rounded in another order."""
LATER = ("yes", "no", "none")
BUDGET = 3
SEEDS, HOT = 12, 10.0
"""Seeds whose answers are compared, and the temperature at which they are drawn: sure models differ then, too."""
LARGEST = 10
"""Whose exponential is shown as a number."""
ALONE = "let no item see another: pad and mask them apart, and draw from the question's own seed"


def check_alone(
    adapter: AdapterSubject,
    method: str,
    items: Sequence[object],
    ask: Callable[[Sequence[int]], Sequence[T]],
    same: Callable[[T, T], bool],
) -> list[T]:
    """What ``ask`` finds of the items at places; breach unless it is the same again, alone and in another order."""
    places = range(len(items))
    found = list(ask(places))
    for way, others in (
        ("the second time", ask(places)),
        ("in another order", list(ask(places[::-1]))[::-1]),
        ("alone", [ask([place])[0] for place in places]),
    ):
        for one, other in zip(found, others, strict=True):
            adapter.require(same(one, other), method, f"gives {one!r}, and {way} {other!r}", ALONE)
    ask([])  # whose length is checked
    return found


class UnderstandingChecks(AdapterSuite):
    """``answer``, ``choice_logprobs``, ``locate`` and ``locate_all``."""

    def test_an_answer_does_not_depend_on_its_batch(self, adapter: AdapterSubject) -> None:
        """Greedy ones and drawn ones."""
        adapter.needs(Capability.ANSWER)
        questions = adapter.asked()
        for decoding in (Decoding(max_tokens=8), Decoding(temperature=1.0, top_p=0.9, max_tokens=8)):

            def ask(places: Sequence[int], decoding: Decoding = decoding) -> list[Answer]:
                return adapter.model.answer([questions[place] for place in places], decoding)

            check_alone(adapter, "answer", questions, ask, lambda a, b: a == b)

    def test_an_answer_keeps_to_its_budget_and_ends_before_its_stop(self, adapter: AdapterSubject) -> None:
        """``Decoding.max_tokens`` and ``Decoding.stop``."""
        adapter.needs(Capability.ANSWER)
        questions = adapter.asked()
        plain = adapter.model.answer(questions, Decoding(max_tokens=BUDGET))
        for answer in plain:
            adapter.require(
                answer.tokens is None or answer.tokens <= BUDGET,
                "answer",
                f"wrote {answer.tokens} tokens of a budget of {BUDGET}",
                "stop after Decoding.max_tokens",
            )
        for question, answer in zip(questions, plain, strict=True):
            if answer.text:
                stop = answer.text[-1]
                (cut,) = adapter.model.answer([question], Decoding(max_tokens=BUDGET, stop=(stop,)))
                wanted = Decoding(stop=(stop,)).cut(answer.text)
                adapter.require(
                    cut.text == wanted,
                    "answer",
                    f"wrote {cut.text!r} where the stop text {stop!r} leaves {wanted!r}",
                    "end an answer at Decoding.stop, and cut the text with Decoding.cut",
                )

    def test_an_answer_that_its_budget_ended_says_so(self, adapter: AdapterSubject) -> None:
        """``Answer.truncated``: else a judge would take half an answer for all of it."""
        adapter.needs(Capability.ANSWER)
        questions = adapter.asked()
        short, long = (adapter.model.answer(questions, Decoding(max_tokens=most)) for most in (BUDGET, 4 * BUDGET))
        for one, other in zip(short, long, strict=True):
            adapter.require(
                one.truncated or one == other,
                "answer",
                f"wrote {one.text!r} on a budget of {BUDGET} tokens, not truncated, and {other.text!r} on one of "
                f"{4 * BUDGET}",
                "set Answer.truncated where the budget ended it, and stop at Decoding.max_tokens",
            )

    def test_a_seed_counts_where_answers_are_drawn_and_nowhere_else(self, adapter: AdapterSubject) -> None:
        """``Question.seed``."""
        adapter.needs(Capability.ANSWER)
        questions = [Question(adapter.images[0], adapter.questions[0], seed=seed) for seed in range(SEEDS)]
        greedy = adapter.model.answer(questions, Decoding(max_tokens=8))
        adapter.require(
            all(one == greedy[0] for one in greedy),
            "answer",
            "a greedy answer changes with Question.seed",
            "take the likeliest token at temperature 0, and draw none",
        )
        drawn = adapter.model.answer(questions, Decoding(temperature=HOT, max_tokens=8))
        if all(one == greedy[0] for one in drawn):
            pytest.skip(f"at the temperature {HOT:g} the answer is the greedy one: the model draws none, or is sure")
        adapter.require(
            any(one != drawn[0] for one in drawn),
            "answer",
            f"{SEEDS} seeds gave the same answer {drawn[0].text!r} at the temperature {HOT:g}",
            "draw tokens from a generator that is made of Question.seed, at Decoding.temperature",
        )

    def test_a_question_without_an_image_is_answered(self, adapter: AdapterSubject) -> None:
        """By its text alone."""
        adapter.needs(Capability.ANSWER)
        (alone,) = adapter.model.answer([Question(None, adapter.questions[0])], Decoding(max_tokens=8))
        mixed = adapter.model.answer(
            [Question(adapter.images[0], adapter.questions[1]), Question(None, adapter.questions[0])],
            Decoding(max_tokens=8),
        )
        adapter.require(
            mixed[1] == alone, "answer", f"gives {alone!r} without an image, and {mixed[1]!r} in a batch", ALONE
        )

    def test_log_probabilities_are_normalised_and_follow_their_choices(self, adapter: AdapterSubject) -> None:
        """logsumexp is 0, and choices in another order have theirs in that order."""
        adapter.needs(Capability.CHOICE)
        for choices in (CHOICES, LATER):
            given = adapter.model.choice_logprobs(adapter.asked(choices))
            turned = adapter.model.choice_logprobs(adapter.asked(choices[::-1]))
            for one, other in zip(given, turned, strict=True):
                total = float(torch.tensor(one, dtype=torch.float64).logsumexp(dim=0))
                adapter.require(
                    abs(total) <= LOGS,
                    "choice_logprobs",
                    f"the probabilities of {choices} sum to {_shown_sum(total)}",
                    "normalise over the choices: log_softmax of their scores",
                )
                adapter.require(
                    _near(one, other[::-1]),
                    "choice_logprobs",
                    f"the choices {choices} get {_shown(one)}, and in the opposite order {_shown(other[::-1])}",
                    "score each choice for itself, and return the scores in the order of the choices",
                )

    def test_log_probabilities_do_not_depend_on_their_batch(self, adapter: AdapterSubject) -> None:
        """Neither on what else is asked of an image."""
        adapter.needs(Capability.CHOICE)
        questions = adapter.asked(CHOICES)

        def ask(places: Sequence[int]) -> list[tuple[float, ...]]:
            return adapter.model.choice_logprobs([questions[place] for place in places])

        check_alone(adapter, "choice_logprobs", questions, ask, _near)

    def test_choices_are_of_the_image_and_of_the_box(self, adapter: AdapterSubject) -> None:
        """Another image, or a part of it, has other log-probabilities; another seed has not. Plain colours are shown,
        too, which a coarse model tells apart."""
        adapter.needs(Capability.CHOICE)
        (width, height), half = adapter.size, max(adapter.size[0] // 2, 1)
        red, blue = (Image.new("RGB", adapter.size, colour) for colour in ("red", "blue"))
        both = red.copy()
        both.paste("blue", (half, 0, width, height))
        parts = [None, Box(0, 0, half, height), *([Box(half, 0, width, height)] if half < width else [])]
        for what, asked, mend in (
            ("images that differ have", [(one, None) for one in (*adapter.images, red, blue)], "see Question.image"),
            ("an image and its halves have", [(both, box) for box in parts], "look at Question.box where there is one"),
        ):
            rows = [
                adapter.model.choice_logprobs([Question(image, text, CHOICES, box) for text in adapter.questions])
                for image, box in asked
            ]
            adapter.require(
                any(row != rows[0] for row in rows[1:]),
                "choice_logprobs",
                f"{what} the same log-probabilities",
                f"let the model {mend}. If the weights are random: layers that begin at zero hide it, so give the "
                "suite weights of which none is zero",
            )
        questions = adapter.asked(CHOICES)
        given = adapter.model.choice_logprobs(questions)
        seeded = adapter.model.choice_logprobs([dataclasses.replace(one, seed=one.seed + 1) for one in questions])
        adapter.require(
            all(_near(one, other) for one, other in zip(given, seeded, strict=True)),
            "choice_logprobs",
            "change with Question.seed",
            "compute them, and draw nothing",
        )

    @pytest.mark.parametrize("method", [Capability.LOCATE, Capability.LOCATE_ALL])
    def test_boxes_lie_inside_their_images(self, adapter: AdapterSubject, method: Capability) -> None:
        """Each region is of a phrase that was asked for; what cannot be read is a Failure."""
        adapter.needs(method)
        name = method.value.replace("-", "_")
        phrases = [
            [phrase for prompt in adapter.prompts for phrase in prompt.phrases],
            [],
            list(adapter.prompts[0].phrases),
        ]
        phrases += phrases[:1] * len(adapter.sizes)
        images = [
            adapter.images[0],
            adapter.images[1],
            adapter.images[1],
            *(painted(size, 1) for size in adapter.sizes),
        ]

        def ask(places: Sequence[int]) -> list[Found]:
            located: list[Found] = getattr(adapter.model, name)(
                [images[place] for place in places], [phrases[place] for place in places]
            )
            return located

        found = check_alone(adapter, name, images, ask, lambda a, b: a == b)
        for image, wanted, regions in zip(images, phrases, found, strict=True):
            if not wanted and regions:
                adapter.breach(name, f"found {regions[0]} where nothing was asked for", "ask of the phrases alone")
            for region in regions:
                _check_region(adapter, name, region, image, wanted)
        boxes = [
            (region.box, image.size)
            for image, regions in zip(images, found, strict=True)
            for region in regions
            if isinstance(region, Region)
        ]
        count = in_first_pixel(boxes)
        adapter.require(not count, name, f"all {count} boxes lie in the first pixel of their images", RELATIVE)


def _check_region(
    adapter: AdapterSubject, method: str, region: Region | Failure, image: Image.Image, phrases: Sequence[str]
) -> None:
    if isinstance(region, Failure):
        adapter.require(bool(region.cause), method, "gave a Failure without a cause", "say in a few words what failed")
        return
    adapter.require(
        region.box.inside(*image.size),
        method,
        f"{region.box} leaves its image of {image.size[0]} x {image.size[1]} pixels",
        "mend corners with srum_plugins.boxes.fitted, which clamps them or says why it cannot",
    )
    adapter.require(
        region.phrase in phrases,
        method,
        f"a region is of {region.phrase!r}, and {list(phrases)} were asked for",
        "give a region the phrase that it answers; srum_plugins.boxes.labelled finds it for a label",
    )
    adapter.require(
        region.score is None or 0.0 <= region.score <= 1.0,
        method,
        f"a region has the score {region.score}",
        "scores lie in [0, 1]; leave None where the model gives none",
    )
    mask = region.mask
    adapter.require(
        mask is None or (mask.width, mask.height) == image.size,
        method,
        f"a mask is of {mask and (mask.width, mask.height)} pixels (width, height), and its image of {image.size}",
        "make masks of the image's size: srum_plugins.rewards.maps.array_mask of an array (height, width)",
    )
    adapter.keeps(method, region)


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) <= LOGS for a, b in zip(one, other, strict=True))


def _shown_sum(total: float) -> str:
    """The number whose logarithm this is, or what there is in its place."""
    return f"{math.exp(total):.4f}" if total < LARGEST else f"exp({total:g})"


def _shown(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4f}' for value in values)})"
