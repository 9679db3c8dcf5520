"""Hypothesis strategies for what plugins are given and give: prompts, images, regions, judgements, reward maps.

@given(strategies.judged())
def test_a_reward_is_no_higher_than_alpha(item): ...
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from srum_plugins.choices import YES_NO
from srum_plugins.contracts import Judged, Located
from srum_plugins.records import Box, Candidate, Check, Failure, Grounding, Judgement, Mask, Prompt, Region, Score
from srum_plugins.rewards.maps import MapRegion, Overlap, RewardMap, array_mask

OVERLAPS: tuple[Overlap, ...] = get_args(Overlap)

texts = st.text(max_size=8)
"""Any text, the empty one included."""
names = st.lists(texts, max_size=3).map(tuple)
"""Tuples of up to three texts."""
shares = st.floats(0, 1)
"""Numbers in [0, 1]."""
local_scores = st.floats(-1, 1, width=32)
"""Numbers in [-1, 1]."""
failures = st.builds(Failure, texts, texts)
"""Typed failures."""
checks = st.builds(lambda kind, choices: Check(kind, "?", choices, choices[0]), texts, names.filter(bool))
"""Questions with one to three choices, of which the first is the answer."""
prompts = st.builds(Prompt, texts, texts, texts, texts, names, st.lists(checks, max_size=2).map(tuple))
"""Prompts of any id, text, category and split, with up to three phrases and two checks."""


COLOURS = ("red", "green", "blue", "white")
THINGS = ("circle", "square", "old house", "umbrella")


@st.composite
def scene_prompts(draw: st.DrawFn, identifier: str = "p0") -> Prompt:
    """Prompts such as ``a red circle and a blue old house``, with their phrases and checks, or without."""
    things = st.tuples(st.sampled_from(COLOURS), st.sampled_from(THINGS)).map(" ".join)
    phrases = tuple(draw(st.lists(things, min_size=1, max_size=3, unique=True)))
    asked = tuple(Check("existence", f"is there a {phrase} ?", YES_NO, "yes") for phrase in phrases)
    text = " and ".join(f"a {phrase}" for phrase in phrases)
    return Prompt(
        identifier, text, phrases=draw(st.sampled_from([phrases, ()])), checks=draw(st.sampled_from([asked, ()]))
    )


def scores(low: float, high: float = 1.0, failing: bool = True) -> st.SearchStrategy[Score | Failure]:
    """Scores in [low, high] with any reason and, with ``failing``, typed failures."""
    known = st.builds(Score, st.floats(low, high), texts, st.none() | shares)
    return known | failures if failing else known


@st.composite
def images(draw: st.DrawFn, most: int = 16) -> Image.Image:
    """RGB images of 1 to ``most`` pixels a side, of patches of any colours."""
    width, height = draw(st.integers(1, most)), draw(st.integers(1, most))
    colours = draw(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=4, max_size=4))
    patches = Image.fromarray(np.array(colours, dtype=np.uint8).reshape(2, 2, 3))
    return patches.resize((width, height), Image.Resampling.NEAREST)


@st.composite
def located_lists(draw: st.DrawFn, most: int = 3, least: int = 1) -> list[Located]:
    """``least`` to ``most`` candidates with their images, each of a prompt of its own: ``p0-0`` of ``p0`` and so on."""
    found = []
    for index in range(draw(st.integers(least, most))):
        prompt, image = draw(scene_prompts(f"p{index}")), draw(images())
        name = f"{prompt.id}-0"
        found.append(Located(prompt, Candidate(name, prompt.id, 0, index, f"{name}.png", *image.size), image))
    return found


@st.composite
def boxes(draw: st.DrawFn, width: int, height: int, whole: bool = False) -> Box:
    """Boxes inside an image of this size in pixels, at least an eighth of a pixel wide and high; with ``whole`` their
    sides are whole numbers."""
    sides = []
    for size in (width, height):
        if whole:
            low: float = draw(st.integers(0, size - 1))
            high: float = draw(st.integers(int(low) + 1, size))
        else:
            low = draw(st.floats(0, size - 0.25))
            high = draw(st.floats(low + 0.125, size))
        sides.append((low, high))
    (x0, x1), (y0, y1) = sides
    return Box(x0, y0, x1, y1)


@st.composite
def masks(draw: st.DrawFn, width: int, height: int) -> Mask:
    """Any mask of this size in pixels."""
    bits = draw(st.lists(st.booleans(), min_size=width * height, max_size=width * height))
    return array_mask(np.array(bits, dtype=bool).reshape(height, width))


def regions(width: int, height: int) -> st.SearchStrategy[Region]:
    """Regions inside an image of this size in pixels, without masks; none is background."""
    return st.builds(Region, boxes(width, height), texts, st.none() | shares)


def groundings(candidate_id: str, width: int, height: int, most: int = 4) -> st.SearchStrategy[Grounding]:
    """Groundings of a candidate of this size in pixels, with up to ``most`` regions."""
    return st.builds(Grounding, st.just(candidate_id), st.lists(regions(width, height), max_size=most).map(tuple))


def judgements(grounding: Grounding, failing: bool = True) -> st.SearchStrategy[Judgement]:
    """Judgements of a grounding's candidate: alpha in [0, 1], and a score in [-1, 1] for each region; with ``failing``
    some of these are failures."""
    count = len(grounding.regions)
    local = st.lists(scores(-1.0, failing=failing), min_size=count, max_size=count).map(tuple)
    return st.builds(Judgement, st.just(grounding.candidate_id), scores(0.0, failing=failing), local)


@st.composite
def judged(draw: st.DrawFn, candidate_id: str = "a", most: int = 40, failing: bool = True) -> Judged:
    """A candidate of up to ``most`` pixels a side with all that an aggregator sees of it; with ``failing`` some scores
    are failures."""
    width, height = draw(st.integers(1, most)), draw(st.integers(1, most))
    prompt = draw(prompts)
    candidate = Candidate(candidate_id, prompt.id, 0, draw(st.integers(0, 2**31)), f"{candidate_id}.png", width, height)
    grounding = draw(groundings(candidate_id, width, height))
    return Judged(prompt, candidate, grounding, draw(judgements(grounding, failing)))


@st.composite
def reward_maps(
    draw: st.DrawFn, whole: bool = False, overlaps: tuple[Overlap, ...] = OVERLAPS, least: int = 0
) -> RewardMap:
    """Reward maps of up to 12 pixels a side, with ``least`` to four regions, boxes or masks."""
    width, height = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    area = st.one_of(boxes(width, height, whole), masks(width, height))
    areas = draw(st.lists(st.builds(MapRegion, area, local_scores), min_size=least, max_size=max(least, 4)))
    return RewardMap(width, height, tuple(areas), draw(shares), draw(local_scores), draw(st.sampled_from(overlaps)))
