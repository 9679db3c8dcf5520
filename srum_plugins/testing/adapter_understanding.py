"""Checks of what a model says about images: open answers, choices and boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from PIL import Image

from srum_plugins.contracts import Answer, Capability, Decoding, Question
from srum_plugins.records import Failure, Region
from srum_plugins.testing.adapter_suite import CHOICES, AdapterSubject, AdapterSuite
from srum_plugins.testing.suite import same_length

T = TypeVar("T")
Found = list[Region | Failure]

LOGS = 1e-4
"""By how much a log-probability may differ when sums are rounded in another order."""
LATER = ("yes", "no", "none")
BUDGET = 3
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
    same_length(adapter, method, "results", items, found)
    for way, others in (
        ("the second time", ask(places)),
        ("in another order", list(ask(places[::-1]))[::-1]),
        ("alone", [ask([place])[0] for place in places]),
    ):
        for one, other in zip(found, others, strict=True):
            adapter.require(same(one, other), method, f"gives {one!r}, and {way} {other!r}", ALONE)
    adapter.require(len(ask([])) == 0, method, "gives results for no item", "return an empty list for an empty list")
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

            for answer in check_alone(adapter, "answer", questions, ask, lambda a, b: a == b):
                if not isinstance(answer, Answer):
                    adapter.breach("answer", f"gave {answer!r}, no Answer", "return Answer(text, truncated)")

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
                same_length(adapter, "choice_logprobs", "log-probabilities", choices, one)
                total = math.log(math.fsum(map(math.exp, one)))
                adapter.require(
                    abs(total) <= LOGS,
                    "choice_logprobs",
                    f"the probabilities of {choices} sum to {math.exp(total):.4f}",
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
        images = [adapter.images[0], adapter.images[1], adapter.images[1]]

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


def _check_region(
    adapter: AdapterSubject, method: str, region: Region | Failure, image: Image.Image, phrases: Sequence[str]
) -> None:
    if isinstance(region, Failure):
        adapter.require(bool(region.cause), method, "gave a Failure without a cause", "say in a few words what failed")
        return
    if not isinstance(region, Region):
        adapter.breach(method, f"gave {region!r}, neither a Region nor a Failure", "return Region(box, phrase)")
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


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) <= LOGS for a, b in zip(one, other, strict=True))


def _shown(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4f}' for value in values)})"
