"""Does a judge keep its contract (:class:`srum_plugins.contracts.Judge`)?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from PIL import Image

from srum_plugins.choices import YES_NO
from srum_plugins.contracts import Judge, Located, ModelAdapter
from srum_plugins.providers import Kind
from srum_plugins.records import Box, Candidate, Check, Failure, Grounding, Judgement, Prompt, Region, Score
from srum_plugins.testing.scripted import NONSENSE, NOT_NEEDED, AskingConformance, ScriptedModel
from srum_plugins.testing.strategies import groundings, located_lists
from srum_plugins.testing.suite import Subject, same_length

Pair = tuple[Located, Grounding]


@st.composite
def pair_lists(draw: st.DrawFn, most: int = 3, least: int = 1) -> list[Pair]:
    """``least`` to ``most`` candidates of different prompts, each with its regions."""
    return [(item, draw(groundings(item.candidate.id, *item.image.size))) for item in draw(located_lists(most, least))]


class JudgeConformance(AskingConformance):
    """The suite of judges. A judge that ``needs`` a model is given a
    :class:`srum_plugins.testing.scripted.ScriptedModel`, whose open answers have the form that ``talk`` gives them."""

    kind: ClassVar[Kind] = Kind.JUDGE

    @pytest.fixture(scope="class")
    @classmethod
    def judge(cls, subject: Subject) -> Judge:
        """What the factory makes."""
        made: Judge = subject.make(Judge)
        return made

    @classmethod
    def judged(
        cls, subject: Subject, judge: Judge, pairs: Sequence[Pair], model: ModelAdapter | None
    ) -> list[Judgement]:
        """The judgements of some candidates: one each, in order, with a local score for each region."""
        items, regions = [item for item, _ in pairs], [grounding for _, grounding in pairs]
        found = subject.call("judge", judge.judge, items, regions, model)
        same_length(subject, "judge", "judgements", pairs, found)
        for (item, grounding), one in zip(pairs, found, strict=True):
            subject.require(
                isinstance(one, Judgement) and one.candidate_id == item.candidate.id,
                "judge",
                f"gave {one!r} for the candidate {item.candidate.id!r}",
                "give a Judgement with the candidate's id, in the order of the items",
            )
            subject.require(
                len(one.local) == len(grounding.regions),
                "judge",
                f"gave {len(one.local)} local scores for {len(grounding.regions)} regions",
                "give each region a Score or a Failure, in the order of the regions",
            )
            for score in (one.alpha, *one.local):
                subject.require(
                    isinstance(score, Score | Failure),
                    "judge",
                    f"gave {score!r} as a score",
                    "give Score(value, reason), or Failure(cause) for what could not be judged",
                )
        return found

    def test_every_candidate_has_a_judgement_and_every_region_a_score(self, subject: Subject, judge: Judge) -> None:
        """One a candidate, in order, also for candidates without regions; records that JSON can hold. The ranges are
        checked by the records: alpha in [0, 1], local scores in [-1, 1]."""

        def check(pairs: list[Pair]) -> None:
            bare = [(item, Grounding(item.candidate.id, ())) for item, _ in pairs]
            for each in (pairs, bare):
                for one in self.judged(subject, judge, each, self.model(subject.needed)):
                    subject.keeps("judge", one)

        self.for_all(pair_lists(), check)

    def test_the_same_image_has_the_same_scores_whenever_and_with_whatever_it_comes(
        self, subject: Subject, judge: Judge
    ) -> None:
        """In a second call, from a second object, and alone."""
        second: Judge = subject.make(Judge)

        def check(pairs: list[Pair]) -> None:
            model = self.model(subject.needed)
            first = self.judged(subject, judge, pairs, model)
            for what, who in (("a second call", judge), ("a second object", second)):
                subject.require(
                    self.judged(subject, who, pairs, model) == first,
                    "judge",
                    f"gave other judgements in {what} for the same images",
                    "give drawn answers a seed (Question.seed); keep nothing that changes a score from call to call",
                )
            subject.require(
                [self.judged(subject, judge, [pair], model)[0] for pair in pairs] == first,
                "judge",
                "gave an image alone another judgement than beside others",
                "let seeds and scores depend on the candidate and not on its place in the batch",
            )

        self.for_all(pair_lists(least=2), check)

    def test_images_are_left_as_they_are(self, subject: Subject, judge: Judge) -> None:
        """Whoever comes next sees the same image."""

        def check(pairs: list[Pair]) -> None:
            before = [item.image.tobytes() for item, _ in pairs]
            self.judged(subject, judge, pairs, self.model(subject.needed))
            subject.require(
                [item.image.tobytes() for item, _ in pairs] == before,
                "judge",
                "changed an image that it was given",
                "draw marks on a copy, as srum_plugins.marking does",
            )

        self.for_all(pair_lists(1), check)

    def test_nothing_is_nothing(self, subject: Subject, judge: Judge) -> None:
        """No item, no judgement."""
        self.judged(subject, judge, [], self.model(subject.needed))

    @pytest.mark.parametrize("nonsense", NONSENSE)
    def test_nonsense_is_a_failure_and_never_a_number(self, subject: Subject, nonsense: str) -> None:
        """Whatever score comes of the model when it talks sense is a Failure when it does not."""
        if not (subject.needed or self.asks):
            pytest.skip("asks no model")
        pairs = _pairs()
        models = [self.model(subject.needed, seed=seed) for seed in range(3)]
        sense = [self._said(subject, pairs, model) for model in models]
        self.is_asked(subject, "judge", models[0], NOT_NEEDED)
        for which, what in enumerate(("alpha", "local score")):
            known = [[score for score in each[which] if isinstance(score, Score)] for each in sense]
            subject.require(
                any(known),
                "judge",
                f"gave no {what} for what the scripted model says, but failures such as {sense[0][which][:1]}",
                "give the test class a `talk` that writes answers in the form that the judge asks for",
            )
            if len({score.value for each in known for score in each}) == 1:
                continue  # a number that the model has no part in, such as 0 of a judge without local scores
            silly = next(one for one in NONSENSE if one == nonsense)
            found = self._said(subject, pairs, self.model(subject.needed, nonsense=silly))[which]
            numbers = sorted({score.value for score in found if isinstance(score, Score)})
            subject.require(
                not numbers,
                "judge",
                f"made the {what} {numbers[0] if numbers else ''} of a model that talks nonsense ({nonsense})",
                "give Failure(cause) for what cannot be read, or is out of range: a number would be trained on",
            )

    def test_a_model_that_cannot_do_what_is_needed_is_refused(self, subject: Subject) -> None:
        """By an error in words; the gate tells it before a run."""
        if not subject.needed:
            pytest.skip("asks no model")
        model = self.model(subject.needed)
        self._said(subject, _pairs(), model)
        self.is_asked(subject, "judge", model, NOT_NEEDED)
        items, regions = zip(*_pairs(), strict=True)
        subject.refused("judge", subject.make(Judge).judge, items, regions, ScriptedModel(can=frozenset()))

    @classmethod
    def _said(
        cls, subject: Subject, pairs: Sequence[Pair], model: ModelAdapter | None
    ) -> tuple[list[Score | Failure], list[Score | Failure]]:
        """All alphas and all local scores of a judge made anew, which may know answers of another model."""
        found = cls.judged(subject, subject.make(Judge), pairs, model)
        return [one.alpha for one in found], list(chain.from_iterable(one.local for one in found))


def _pairs() -> list[Pair]:
    """Three candidates with two regions each."""
    pairs = []
    for index, colour in enumerate(("red", "green", "blue")):
        phrases = (f"{colour} circle", "white square")
        checks = tuple(Check("existence", f"is there a {phrase} ?", YES_NO, "yes") for phrase in phrases)
        prompt = Prompt(f"p{index}", f"a {phrases[0]} and a {phrases[1]}", phrases=phrases, checks=checks)
        image = Image.new("RGB", (16, 12), colour)
        item = Located(prompt, Candidate(f"p{index}-0", prompt.id, 0, index, f"p{index}-0.png", 16, 12), image)
        regions = (Region(Box(0, 0, 8, 12), phrases[0]), Region(Box(8, 0, 16, 12), phrases[1]))
        pairs.append((item, Grounding(item.candidate.id, regions)))
    return pairs
