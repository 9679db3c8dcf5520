"""Does a grounder keep its contract (:class:`srum_plugins.contracts.Grounder`)?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
from PIL import Image

from srum_plugins.contracts import Grounder, Located
from srum_plugins.providers import Kind
from srum_plugins.records import Candidate, Grounding, Prompt, Region
from srum_plugins.testing.scripted import NONSENSE, NOT_NEEDED, AskingConformance, Nonsense, ScriptedModel
from srum_plugins.testing.strategies import located_lists
from srum_plugins.testing.suite import RELATIVE, Subject, in_first_pixel, same_length


class GrounderConformance(AskingConformance):
    """The suite of grounders. Images have sides of 1 to 16 pixels; prompts come with and without phrases.

    The grounder is given a :class:`srum_plugins.testing.scripted.ScriptedModel` if it ``needs`` a model.
    """

    kind: ClassVar[Kind] = Kind.GROUNDER

    @pytest.fixture(scope="class")
    @classmethod
    def grounder(cls, subject: Subject) -> Grounder:
        """What the factory makes."""
        made: Grounder = subject.make(Grounder)
        return made

    @classmethod
    def ground(
        cls, subject: Subject, grounder: Grounder, items: Sequence[Located], nonsense: Nonsense | None = None
    ) -> list[Grounding]:
        """The groundings of some items, of which there is one each, in order; ``nonsense`` is what the model talks."""
        found = subject.call("ground", grounder.ground, items, cls.model(subject.needed, nonsense=nonsense))
        same_length(subject, "ground", "groundings", items, found)
        for item, one in zip(items, found, strict=True):
            subject.require(
                isinstance(one, Grounding) and one.candidate_id == item.candidate.id,
                "ground",
                f"gave {one!r} for the candidate {item.candidate.id!r}",
                "give a Grounding with the candidate's id, in the order of the items",
            )
        return found

    def test_every_candidate_has_a_grounding_that_lies_in_its_image(self, subject: Subject, grounder: Grounder) -> None:
        """One a candidate, in order; boxes inside the image, masks of its size; records that JSON can hold."""

        def check(items: list[Located]) -> None:
            for item, one in zip(items, self.ground(subject, grounder, items), strict=True):
                _check(subject, item, one)
                subject.keeps("ground", one)

        self.for_all(located_lists(), check)

    def test_boxes_are_told_in_pixels(self, subject: Subject, grounder: Grounder) -> None:
        """Not all lie in the first pixel, as shares of the image's sides would."""
        items = _items()
        found = self.ground(subject, grounder, items)
        boxes = [
            (region.box, item.image.size) for item, one in zip(items, found, strict=True) for region in one.regions
        ]
        count = in_first_pixel(boxes)
        subject.require(not count, "ground", f"all {count} boxes lie in the first pixel of their images", RELATIVE)

    @pytest.mark.parametrize("nonsense", NONSENSE)
    def test_failures_of_the_model_are_no_regions(
        self, subject: Subject, grounder: Grounder, nonsense: Nonsense
    ) -> None:
        """A model gives a Failure for an answer that it cannot read. Nothing stops by one."""
        if not subject.needed:
            pytest.skip("asks no model")
        items = _items()
        for item, one in zip(items, self.ground(subject, grounder, items, nonsense), strict=True):
            _check(subject, item, one)

    def test_the_same_image_has_the_same_regions_whenever_and_with_whatever_it_comes(
        self, subject: Subject, grounder: Grounder
    ) -> None:
        """In a second call, from a second object, and alone."""
        second: Grounder = subject.make(Grounder)

        def check(items: list[Located]) -> None:
            first = self.ground(subject, grounder, items)
            for what, who in (("a second call", grounder), ("a second object", second)):
                subject.require(
                    self.ground(subject, who, items) == first,
                    "ground",
                    f"gave other regions in {what} for the same images",
                    "draw from a generator with a fixed seed, or not at all; keep nothing from one call to the next",
                )
            subject.require(
                [self.ground(subject, grounder, [item])[0] for item in items] == first,
                "ground",
                "gave an image alone other regions than beside others",
                "let nothing of one image depend on the others: a run that goes on after a failure asks one by one",
            )

        self.for_all(located_lists(least=2), check)

    def test_images_are_left_as_they_are(self, subject: Subject, grounder: Grounder) -> None:
        """Judges and people see the same image."""

        def check(items: list[Located]) -> None:
            before = [item.image.tobytes() for item in items]
            self.ground(subject, grounder, items)
            subject.require(
                [item.image.tobytes() for item in items] == before,
                "ground",
                "changed an image that it was given",
                "draw on a copy (image.copy())",
            )

        self.for_all(located_lists(1), check)

    def test_nothing_is_nothing(self, subject: Subject, grounder: Grounder) -> None:
        """No item, no grounding."""
        self.ground(subject, grounder, [])

    def test_a_model_that_cannot_do_what_is_needed_is_refused(self, subject: Subject, grounder: Grounder) -> None:
        """By an error in words; the gate tells it before a run."""
        if not subject.needed:
            pytest.skip("asks no model")
        model = self.model(subject.needed)
        subject.call("ground", grounder.ground, _items(), model)
        self.is_asked(subject, "ground", model, NOT_NEEDED)
        subject.refused("ground", grounder.ground, _items()[:1], ScriptedModel(can=frozenset()))


def _items() -> list[Located]:
    """Three candidates whose images show a bright square, and have phrases that are found."""
    found = []
    for index, colour in enumerate(("red", "green", "blue")):
        prompt = Prompt(f"p{index}", f"a {colour} circle", phrases=(f"{colour} circle", "white square"))
        image = Image.new("RGB", (24, 16), "black")
        image.paste(colour, (8, 4, 20, 12))
        name = f"{prompt.id}-0"
        found.append(Located(prompt, Candidate(name, prompt.id, 0, index, f"{name}.png", *image.size), image))
    return found


def _check(subject: Subject, item: Located, found: Grounding) -> None:
    width, height = item.image.size
    subject.require(
        found.failure is None or not found.regions,
        "ground",
        f"gave {item.candidate.id!r} both a failure and {len(found.regions)} regions",
        "leave `regions` empty where nothing could be grounded",
    )
    for region in found.regions:
        subject.require(
            isinstance(region, Region),
            "ground",
            f"gave {region!r:.200} as a region",
            "count a Failure of the model in `dropped`, by its cause, and go on with its regions",
        )
        subject.require(
            region.box.inside(width, height),
            "ground",
            f"gave {region.box} in an image of {width}x{height} pixels",
            "clip the box, or drop it and count it in `dropped`; srum_plugins.boxes.fitted does both by rule",
        )
        mask = region.mask
        subject.require(
            mask is None or (mask.width, mask.height) == (width, height),
            "ground",
            f"gave a mask of {mask and (mask.width, mask.height)} for an image of {(width, height)}",
            "make masks of the image's size: srum_plugins.rewards.maps.array_mask of an array (height, width)",
        )
        subject.require(
            region.score is None or 0.0 <= region.score <= 1.0,
            "ground",
            f"gave the score {region.score}",
            "give a confidence in [0, 1], or None",
        )
