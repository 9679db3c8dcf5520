import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from oracle_model import OracleModel
from PIL import Image
from srum_components.grounder import ComponentsGrounder
from srum_components.options import ComponentsOptions
from srum_components.plugin import srum_grounders as components_providers
from srum_file.options import FileOptions
from srum_fixed.options import GridOptions
from srum_native.grounder import NativeGrounder
from srum_native.options import NativeOptions
from srum_native.plugin import srum_grounders as native_providers
from srum_shapes.prompts import parse, sample_facts, to_prompt
from srum_shapes.world import render, sample_scene, scene_for

from srum_plugins.contracts import Answer, Capability, Located
from srum_plugins.errors import CapabilityError, ContractError
from srum_plugins.records import Box, Candidate, Failure, Prompt, Region
from srum_plugins.rewards.maps import mask_array

seeds = st.integers(0, 2**32 - 1)


def located(image: Image.Image, prompt: Prompt, name: str = "c") -> Located:
    return Located(prompt, Candidate(name, prompt.id, 0, 0, f"{name}.png", *image.size), image)


def blank(width: int = 32, height: int = 32) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


PROMPT = to_prompt(parse("a red circle and a blue square"), "p", "train")


class Finds(OracleModel):
    """Finds the same regions everywhere."""

    def __init__(self, *regions: Region | Failure) -> None:
        super().__init__()
        self.regions = list(regions)
        self.phrases: list[tuple[str, ...]] = []

    def locate(self, images, phrases):
        self.phrases += phrases
        return [self.regions for _ in images]


def ground(options: NativeOptions, *regions: Region | Failure, prompt: Prompt = PROMPT):
    (grounding,) = NativeGrounder(options).ground([located(blank(), prompt)], Finds(*regions))
    return grounding


@given(seeds)
def test_native_finds_the_objects_of_the_prompt(seed):
    rng = np.random.default_rng(seed)
    facts = sample_facts(rng)
    scene = scene_for(facts, rng)
    item = located(Image.fromarray(render(scene, rng)), to_prompt(facts, "p", "train"))
    (grounding,) = NativeGrounder(NativeOptions()).ground([item], OracleModel())
    assert grounding.candidate_id == "c" and grounding.dropped == {}
    assert {(r.phrase, r.box) for r in grounding.regions} == {(o.phrase, o.box) for o in scene.objects}


def test_native_drops_and_counts_what_cannot_be_used():
    good = Region(Box(2, 2, 10, 10), "red circle", 0.9)
    grounding = ground(
        NativeOptions(max_regions=2),
        good,
        Region(Box(2, 2, 10, 11), "red circle", 0.8),
        Region(Box(-1, 2, 10, 11), "red circle", 0.8),
        Region(Box(20, 20, 33, 30), "red circle", 0.8),
        Region(Box(20, 20, 22, 22), "red circle", 0.8),
        Region(Box(2, 2, 10, 10), "blue square", 0.7),
        Region(Box(20, 2, 28, 10), "blue square", 0.6),
        Failure("malformed boxes"),
    )
    assert grounding.regions == (good, Region(Box(2, 2, 10, 10), "blue square", 0.7))
    assert grounding.dropped == {"duplicate": 1, "outside": 2, "small": 1, "surplus": 1, "malformed boxes": 1}


def test_native_keeps_the_most_confident_and_else_the_models_order():
    boxes = [Box(x, 0, x + 5, 5) for x in (0, 6, 12, 18)]
    scores = [None, 0.2, None, 0.9]
    grounding = ground(NativeOptions(), *(Region(b, "x", s) for b, s in zip(boxes, scores, strict=True)))
    assert [region.box for region in grounding.regions] == [boxes[3], boxes[1], boxes[0], boxes[2]]


sides = st.floats(-40, 80)
corners = st.tuples(sides, sides, sides, sides).filter(lambda c: c[0] < c[2] and c[1] < c[3])


@given(st.lists(corners.map(lambda c: Region(Box(*c), "x")) | st.just(Failure("empty box")), max_size=12))
def test_native_keeps_boxes_inside_the_image_and_counts_the_rest(found):
    grounding = ground(NativeOptions(max_regions=3), *found)
    assert all(region.box.inside(32, 32) and region in found for region in grounding.regions)
    assert len(grounding.regions) + sum(grounding.dropped.values()) == len(found)
    assert grounding.dropped.get("empty box", 0) == sum(isinstance(one, Failure) for one in found)


CAT = Prompt("q", "a cat on two mats", phrases=("whiskers",))


@pytest.mark.parametrize(
    ("options", "prompt", "phrases"),
    [
        ({}, CAT, ("whiskers",)),
        ({}, Prompt("q", "a cat on two mats"), ("cat", "mat")),
        ({}, Prompt("q", "on the left"), ("on the left",)),
        ({"phrases": "given"}, PROMPT, ("red circle", "blue square")),
        ({"phrases": "rule"}, CAT, ("cat", "mat")),
        ({"phrases": "rule"}, Prompt("q", "on the left"), ("on the left",)),
    ],
)
def test_native_looks_for_the_prompts_phrases_or_those_of_the_rule(options, prompt, phrases):
    model = Finds()
    NativeGrounder(NativeOptions(**options)).ground([located(blank(), prompt)], model)
    assert model.phrases == [phrases] and model.asked == []


class Talks(Finds):
    """Names the first two words of what it is asked about; of long texts too many."""

    def answer(self, questions, decoding=None):
        self.asked += questions
        texts = [question.text.rpartition(": ")[2] for question in questions]
        return [Answer("\n".join(text.split()[:2]), truncated=len(text) > 20) for text in texts]


def test_native_asks_for_phrases_once_a_text_and_a_failure_is_counted():
    texts = ["cat mat", "dog bench", "cat mat", "a text that is far too long"]
    items = [located(blank(), Prompt(str(i), text, phrases=("x",)), f"c{i}") for i, text in enumerate(texts)]
    good = Region(Box(2, 2, 10, 10), "cat")
    model = Talks(good)
    found = NativeGrounder(NativeOptions(phrases="ask")).ground(items, model)
    assert len(model.asked) == 3 and all(question.image is None for question in model.asked)
    assert model.phrases == [("cat", "mat"), ("dog", "bench"), ("cat", "mat")]  # nothing is looked for in the last
    assert [grounding.candidate_id for grounding in found] == ["c0", "c1", "c2", "c3"]
    assert [grounding.regions for grounding in found] == [(good,)] * 3 + [()]
    assert found[3].dropped == {"truncated answer": 1}


class FindsAll(OracleModel):
    """Is asked for all phrases at once only."""

    def locate_all(self, images, phrases):
        return super().locate(images, phrases)

    def locate(self, images, phrases):
        raise AssertionError("asked one by one")


@given(seeds)
def test_native_finds_the_same_at_once_as_one_by_one(seed):
    rng = np.random.default_rng(seed)
    facts = sample_facts(rng)
    item = located(Image.fromarray(render(scene_for(facts, rng), rng)), to_prompt(facts, "p", "train"))
    at_once = NativeGrounder(NativeOptions(at_once=True)).ground([item], FindsAll())
    assert at_once == NativeGrounder(NativeOptions()).ground([item], OracleModel())


def test_native_at_once_needs_a_model_that_can():
    with pytest.raises(CapabilityError, match="OracleModel cannot locate several phrases at once"):
        NativeGrounder(NativeOptions(at_once=True)).ground([located(blank(), PROMPT)], OracleModel())


def test_native_needs_a_model_that_keeps_its_contract():
    with pytest.raises(ContractError, match="needs a model"):
        NativeGrounder(NativeOptions()).ground([located(blank(), PROMPT)], None)

    class Forgets(OracleModel):
        def locate(self, images, phrases):
            return []

    with pytest.raises(ContractError, match="0 lists for 1 images"):
        NativeGrounder(NativeOptions()).ground([located(blank(), PROMPT)], Forgets())


@given(seeds)
def test_components_finds_every_object_without_a_model(seed):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    item = located(Image.fromarray(render(scene, rng)), PROMPT)
    (grounding,) = ComponentsGrounder(ComponentsOptions(masks=True)).ground([item], None)
    assert {r.box for r in grounding.regions} == {o.box for o in scene.objects}
    assert all(region.phrase == "" for region in grounding.regions)
    areas = []
    for region in grounding.regions:
        rows, columns = np.nonzero(mask_array(region.mask))
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (
            region.box.x0,
            region.box.y0,
            region.box.x1,
            region.box.y1,
        )
        areas.append(len(rows))
    assert areas == sorted(areas, reverse=True)


def test_components_counts_what_it_drops_and_masks_only_on_request():
    pixels = np.full((40, 60, 3), 30, dtype=np.uint8)
    pixels[5:10, 5:15] = 200
    pixels[20:30, 20:40] = 255
    pixels[35:37, 50:53] = 255
    (grounding,) = ComponentsGrounder(ComponentsOptions(max_regions=1)).ground(
        [located(Image.fromarray(pixels), PROMPT)], None
    )
    assert grounding.regions == (Region(Box(20, 20, 40, 30)),)
    assert grounding.dropped == {"small": 1, "surplus": 1}


def test_components_of_a_blank_image_are_none():
    (grounding,) = ComponentsGrounder(ComponentsOptions()).ground([located(blank(50, 20), PROMPT)], None)
    assert grounding.regions == () and grounding.dropped == {}


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        (NativeOptions, {"max_regions": 0}),
        (NativeOptions, {"min_area": 1.0}),
        (NativeOptions, {"duplicate_iou": 1.5}),
        (ComponentsOptions, {"threshold": 0.0}),
        (ComponentsOptions, {"min_area": -0.1}),
        (ComponentsOptions, {"max_regions": 0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        options(**setting)


def test_every_option_of_every_grounder_is_documented_with_its_default():
    docs = (Path(__file__).parents[1] / "docs/grounders.md").read_text()
    table = docs.split("## Options")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (?:`([a-z-]+)`)? ?\| (`[^|]*`) \| ([^|]*) \|", table, re.MULTILINE)
    found, name = {}, ""
    for first, settings, default in rows:
        name = first or name
        values = [value.strip("` ") for value in default.split(", ")]
        found.setdefault(name, {}).update(zip(re.findall(r"`(\w+)`", settings), values, strict=True))
    options = {"native": NativeOptions, "components": ComponentsOptions, "grid": GridOptions, "file": FileOptions}
    assert set(found) == set(options)
    for grounder, kind in options.items():
        fields = {field.name: field.default for field in dataclasses.fields(kind)}
        assert list(found[grounder]) == list(fields)
        for field, default in fields.items():
            shown = (
                "none: it must be given" if default is dataclasses.MISSING else yaml.safe_dump(default).split("\n")[0]
            )
            assert found[grounder][field] == (shown.removesuffix(".0"))


def test_providers():
    (native,), (components,) = native_providers(), components_providers()
    assert native.needs(NativeOptions()) == {Capability.LOCATE}
    assert native.needs(NativeOptions(at_once=True)) == {Capability.LOCATE_ALL}
    assert native.needs(NativeOptions(phrases="ask")) == {Capability.LOCATE, Capability.ANSWER}
    assert native.needs(NativeOptions("ask", True)) == {Capability.LOCATE_ALL, Capability.ANSWER}
    assert components.needs(ComponentsOptions()) == frozenset()
    assert isinstance(native.factory(NativeOptions()), NativeGrounder)
    assert isinstance(components.factory(ComponentsOptions()), ComponentsGrounder)
