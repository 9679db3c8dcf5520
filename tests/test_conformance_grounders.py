"""Our grounders keep the contract, and the suite sees those that do not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sam_torchvision  # noqa: F401
import srum_sam.plugin
from PIL import ImageDraw

from srum_plugins import hookimpl
from srum_plugins.contracts import Capability, Grounder, Located, ModelAdapter
from srum_plugins.errors import CapabilityError
from srum_plugins.host import PluginHost
from srum_plugins.providers import Provider
from srum_plugins.records import Box, Failure, Grounding, Region
from srum_plugins.testing.grounders import GrounderConformance
from srum_plugins.testing.suite import Subject


def one_provider(provider: Provider) -> Any:
    class Plugin:
        @hookimpl
        def srum_grounders(self) -> list[Provider]:
            return [provider]

    return Plugin()


class TestNative(GrounderConformance):
    name = "native"


class TestNativeAtOnceWithItsOwnPhrases(GrounderConformance):
    name = "native"
    options = {"at_once": True, "phrases": "ask"}


class TestComponents(GrounderConformance):
    name = "components"
    options = {"masks": True, "threshold": 20.0}


class TestWholeImage(GrounderConformance):
    name = "whole-image"


class TestGrid(GrounderConformance):
    name = "grid"


class TestFile(GrounderConformance):
    name = "file"

    @classmethod
    def configure(cls, folder: Path) -> Mapping[str, Any]:
        boxes = [{"box": [0.1, 0.2, 0.7, 1.2], "label": "red circle", "score": 0.5}, {"box": [0.5, 0.5, 0.5, 0.5]}]
        lines = [{"prompt_id": "p0", "boxes": boxes}, {"prompt_id": "p1", "boxes": []}]
        (folder / "boxes.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        return {"path": str(folder / "boxes.jsonl"), "units": "relative", "missing": "empty"}


class TestSam(GrounderConformance):
    name = "sam"
    options = {"masks": True}
    examples = 2  # a quarter of a second for an image

    @classmethod
    def host(cls) -> PluginHost:
        """By the provider's own record, but for the packages that it needs: sam_torchvision has imported them, with a
        stand-in where there is none."""
        (provider,) = srum_sam.plugin.srum_grounders()
        host = PluginHost.load(entry_points=())
        host.register(one_provider(dataclasses.replace(provider, modules=())), "sam")
        return host


# --- what the suite sees ------------------------------------------------------------------------------------------
Ground = Callable[[Sequence[Located], ModelAdapter | None], list[Grounding]]


class Broken(GrounderConformance):
    """A grounder that is one function."""

    name = "broken"

    @classmethod
    def made(cls, ground: Ground, folder: Path, needs: frozenset[Capability] = frozenset()) -> tuple[Subject, Grounder]:
        class One(Grounder):
            def ground(self, items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
                return ground(items, model)

        cls.plugin = one_provider(Provider("broken", "breaks", lambda options: One(), needs=lambda options: needs))
        subject = cls.open(folder)
        return subject, subject.make(Grounder)


def whole(item: Located, beyond: float = 0.0) -> Grounding:
    width, height = item.image.size
    return Grounding(item.candidate.id, (Region(Box(0, 0, width + beyond, height)),))


def painting(items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
    for item in items:
        ImageDraw.Draw(item.image).point((0, 0), "#123456")
    return [whole(item) for item in items]


def unseeded(items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
    return [Grounding(item.candidate.id, (Region(Box(0, 0, 0.1 + 0.9 * random.random(), 1)),)) for item in items]


def deaf(items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
    return [whole(item) for item in items]


def undaunted(items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
    assert model is not None
    with contextlib.suppress(CapabilityError):
        model.locate([item.image for item in items], [item.prompt.phrases for item in items])
    return deaf(items, model)


def asking(items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
    assert model is not None
    found = model.locate([item.image for item in items], [item.prompt.phrases for item in items])
    model.answer([])
    return [
        Grounding(item.candidate.id, tuple(one for one in own if isinstance(one, Region)))
        for item, own in zip(items, found, strict=True)
    ]


def counting(items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
    """As it should be: failures of the model are counted."""
    assert model is not None
    found = model.locate([item.image for item in items], [item.prompt.phrases for item in items])
    return [
        Grounding(
            item.candidate.id,
            tuple(one for one in own if isinstance(one, Region)),
            {"unread": sum(isinstance(one, Failure) for one in own)},
        )
        for item, own in zip(items, found, strict=True)
    ]


def empty(items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
    return [Grounding(item.candidate.id, ()) for item in items]


def passing_on(items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
    assert model is not None
    found = model.locate([item.image for item in items], [item.prompt.phrases for item in items])
    return [Grounding(item.candidate.id, tuple(own)) for item, own in zip(items, found, strict=True)]  # type: ignore[arg-type]


def stumbling(items: Sequence[Located], model: ModelAdapter | None) -> list[Grounding]:
    found = passing_on(items, model)
    return [dataclasses.replace(one, regions=tuple(Region(region.box) for region in one.regions)) for one in found]


LOCATE = frozenset({Capability.LOCATE})
INSIDE = Broken.test_every_candidate_has_a_grounding_that_lies_in_its_image
SAME = Broken.test_the_same_image_has_the_same_regions_whenever_and_with_whatever_it_comes
CANNOT = Broken.test_a_model_that_cannot_do_what_is_needed_is_refused
PIXELS = Broken.test_boxes_are_told_in_pixels
UNREAD = partial(Broken.test_failures_of_the_model_are_no_regions, nonsense="garbage")


@pytest.mark.parametrize(
    ("ground", "needs", "test", "words"),
    [
        (lambda items, model: [whole(item, 0.5) for item in items], (), INSIDE, r"ground: gave Box.* in an image of"),
        (lambda items, model: [whole(item) for item in items[1:]], (), INSIDE, "gave 0 groundings for 1 items"),
        (lambda items, model: [Grounding("x", ()) for _ in items], (), INSIDE, "for the candidate 'p0-0'"),
        (
            lambda items, model: 1 / 0,
            (),
            INSIDE,
            r"(?s)raised ZeroDivisionError.*at: \S*test_conformance_grounders.py:",
        ),
        (unseeded, (), SAME, "other regions in a second call"),
        (lambda items, model: [whole(item, -0.1 * len(items)) for item in items], (), SAME, "alone other regions"),
        (painting, (), Broken.test_images_are_left_as_they_are, "changed an image"),
        (undaunted, LOCATE, CANNOT, "took a model that can do nothing"),
        (
            deaf,
            LOCATE,
            CANNOT,
            "ground: needs locate, and asked the model nothing",
        ),
        (
            lambda items, model: [Grounding(one.candidate.id, (Region(Box(0.1, 0.2, 0.5, 0.9)),)) for one in items],
            (),
            PIXELS,
            "all 3 boxes lie in the first pixel",
        ),
        (passing_on, LOCATE, UNREAD, r"gave Failure\(.*\) as a region"),
        (stumbling, LOCATE, UNREAD, "raised AttributeError"),
        (asking, LOCATE, INSIDE, "asked the model for more than its needs, which are locate"),
    ],
)
def test_a_breach_is_told_with_plugin_method_and_mend(
    tmp_path: Path, ground: Ground, needs: Sequence[Capability], test: Callable[..., None], words: str
) -> None:
    subject, grounder = Broken.made(ground, tmp_path, frozenset(needs))
    with pytest.raises(pytest.fail.Exception, match=words) as told:
        test(Broken(), subject, grounder)
    assert "the grounder 'broken' of" in str(told.value) and "mend: " in str(told.value)


@pytest.mark.parametrize(("ground", "needs"), [(counting, LOCATE), (empty, frozenset())])
def test_failures_that_are_counted_and_images_without_boxes_are_right(
    tmp_path: Path, ground: Ground, needs: frozenset[Capability]
) -> None:
    subject, grounder = Broken.made(ground, tmp_path, needs)
    for test in (INSIDE, SAME, PIXELS, *([UNREAD] if needs else [])):
        test(Broken(), subject, grounder)
