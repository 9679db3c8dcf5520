"""Does an aggregator keep its contract (:class:`srum_plugins.contracts.Aggregator`)?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import strategies as st

from srum_plugins.contracts import Aggregator, Judged, Reward
from srum_plugins.providers import Kind
from srum_plugins.records import Box, Candidate, Failure, Grounding, Judgement, Prompt, Region, Score
from srum_plugins.rewards.maps import RewardMap
from srum_plugins.testing.strategies import judged
from srum_plugins.testing.suite import Conformance, Subject, same_length


@st.composite
def runs(draw: st.DrawFn) -> list[Judged]:
    """Two candidates that were judged in full, and up to three more of which parts may have failed: each of a prompt of
    its own, or all of one."""
    sound = [draw(judged(f"c{index}", failing=False)) for index in range(2)]
    others = [draw(judged(f"c{index}")) for index in range(2, 2 + draw(st.integers(0, 3)))]
    items = draw(st.permutations([*sound, *others]))
    if draw(st.booleans()):
        return items
    prompt = items[0].prompt
    return [
        replace(item, prompt=prompt, candidate=replace(item.candidate, prompt_id=prompt.id, index=index))
        for index, item in enumerate(items)
    ]


class AggregatorConformance(Conformance):
    """The suite of aggregators.

    ``regional`` says that a region's score reaches the pixels of its box and no others, as the map of one candidate
    depends on its own judgement, and that a better score gives a higher weight; the suite then checks it.
    """

    kind: ClassVar[Kind] = Kind.AGGREGATOR
    regional: ClassVar[bool] = False

    @pytest.fixture(scope="class")
    @classmethod
    def aggregator(cls, subject: Subject) -> Aggregator:
        """What the factory makes."""
        made: Aggregator = subject.make(Aggregator)
        return made

    @staticmethod
    def aggregated(
        subject: Subject, aggregator: Aggregator, items: Sequence[Judged], seed: int = 0
    ) -> list[Reward | None]:
        """The rewards of some candidates: one each or None, in order, of the size of their images."""
        found = subject.call("aggregate", aggregator.aggregate, items, seed)
        same_length(subject, "aggregate", "rewards", items, found)
        for item, reward in zip(items, found, strict=True):
            if reward is None:
                scores = (item.judgement.alpha, *item.judgement.local)
                subject.require(
                    any(isinstance(score, Failure) for score in scores),
                    "aggregate",
                    f"gave the candidate {item.candidate.id!r} no reward, though nothing of its judgement failed",
                    "give None only where a failed judgement allows no reward",
                )
                continue
            subject.require(
                isinstance(reward, Reward) and reward.candidate_id == item.candidate.id,
                "aggregate",
                f"gave {reward!r} for the candidate {item.candidate.id!r}",
                "give a Reward with the candidate's id, in the order of the items",
            )
            own, size = (reward.map.width, reward.map.height), (item.candidate.width, item.candidate.height)
            subject.require(
                own == size,
                "aggregate",
                f"gave a map of {own} for an image of {size} (width, height)",
                "make the map of the candidate's width and height, in pixels",
            )
            subject.require(
                math.isfinite(reward.score),
                "aggregate",
                f"gave the score {reward.score}",
                "give a finite number; higher is better",
            )
        return found

    def test_every_candidate_has_a_reward_of_its_own_size(self, subject: Subject, aggregator: Aggregator) -> None:
        """One each, in order, or None where a judgement failed; numbers are finite; records that JSON can hold."""

        def check(items: list[Judged]) -> None:
            for reward in self.aggregated(subject, aggregator, items):
                if reward is not None:
                    subject.keeps("aggregate", reward)

        self.for_all(runs(), check)

    def test_the_same_run_with_the_same_seed_has_the_same_rewards(
        self, subject: Subject, aggregator: Aggregator
    ) -> None:
        """In a second call, and from a second object."""
        second: Aggregator = subject.make(Aggregator)

        def check(run: tuple[list[Judged], int]) -> None:
            items, seed = run
            first = self.aggregated(subject, aggregator, items, seed)
            for what, who in (("a second call", aggregator), ("a second object", second)):
                subject.require(
                    self.aggregated(subject, who, items, seed) == first,
                    "aggregate",
                    f"gave other rewards in {what} for the same items and seed",
                    "draw from a generator that is made of `seed`, such as numpy.random.default_rng(seed)",
                )

        self.for_all(st.tuples(runs(), st.integers(0, 2**32 - 1)), check)

    def test_what_it_is_given_is_left_as_it_is(self, subject: Subject, aggregator: Aggregator) -> None:
        """Candidates, regions and judgements, and the list of them."""

        def check(items: list[Judged]) -> None:
            before = deepcopy(items)
            subject.call("aggregate", aggregator.aggregate, items, 0)
            subject.require(items == before, "aggregate", "changed the items that it was given", "work on a copy")

        self.for_all(runs(), check)

    @classmethod
    def _maps(cls, subject: Subject, aggregator: Aggregator, items: Sequence[Judged]) -> list[RewardMap]:
        """The maps of candidates of whose judgements nothing failed, which have one each."""
        return [one.map for one in cls.aggregated(subject, aggregator, items) if one is not None]

    def test_a_regions_score_reaches_its_own_pixels(self, subject: Subject, aggregator: Aggregator) -> None:
        """Between a region with the score 1 and one with -1, the map falls in the pixels of its box and is the same in
        all others, those of other candidates included."""
        if not self.regional:
            pytest.skip("says nothing of regions: set `regional = True` if it should")

        def check(place: tuple[int, int, int, int, int, int]) -> None:
            left, top, wide, high, right, under = place
            box, size = Box(left, top, left + wide, top + high), (left + wide + right, top + high + under)
            maps, others = [], []
            for score in (1.0, -1.0):
                marked = _marked(box, size, score)
                found, *rest = self._maps(subject, aggregator, [marked, *_others()])
                maps.append(found.pixels().numpy())
                others.append(rest)
                subject.require(
                    rest == others[0] and [found] == self._maps(subject, aggregator, [marked]),
                    "aggregate",
                    "the score of a region reaches the maps of other candidates",
                    "make each map of its own judgement alone, or set `regional = False` in the suite",
                )
            wanted = np.zeros(maps[0].shape, dtype=bool)
            wanted[top : top + high, left : left + wide] = True
            subject.require(
                bool(((maps[0] != maps[1]) == wanted).all()),
                "aggregate",
                f"the score of a region at {box} in an image of {size} (width, height) reaches other pixels",
                "boxes are (x0, y0, x1, y1) in pixels from the top left: x counts columns, y counts rows",
            )
            subject.require(
                bool((maps[0] >= maps[1]).all()),
                "aggregate",
                "a region with the score 1 has a lower weight than with -1",
                "give what was judged better the higher weight, or set `regional = False` in the suite",
            )

        sides = (st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))
        self.for_all(st.tuples(*sides, st.integers(0, 9), st.integers(0, 9)), check)


def _marked(box: Box, size: tuple[int, int], score: float, name: str = "p0") -> Judged:
    """A candidate with one region of this score, and alpha 1."""
    candidate = Candidate(f"{name}-0", name, 0, 0, f"{name}-0.png", *size)
    grounding = Grounding(candidate.id, (Region(box, "red circle"),))
    return Judged(
        Prompt(name, "a red circle", phrases=("red circle",)),
        candidate,
        grounding,
        Judgement(candidate.id, Score(1.0), (Score(score),)),
    )


def _others() -> list[Judged]:
    """Two more candidates of the run."""
    return [_marked(Box(0, 0, 2, 2), (4, 4), score, name) for score, name in ((0.5, "p1"), (-0.5, "p2"))]
