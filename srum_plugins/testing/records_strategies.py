"""Hypothesis strategies of the records that stages hand to one another."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from srum_plugins.choices import YES_NO
from srum_plugins.contracts import Judged, Located, Reward
from srum_plugins.records import (
    Box,
    Candidate,
    Check,
    Failure,
    Grounding,
    Judgement,
    Mask,
    Prompt,
    Region,
    Score,
)
from srum_plugins.rewards.maps import OVERLAPS, MapRegion, RewardMap, array_mask

COLOURS = ("red", "green", "blue", "white")
THINGS = ("circle", "square", "old house", "umbrella")
FAILURES = st.sampled_from([Failure("refused"), Failure("no score", "nothing was said")])
"""Why a judge has no score."""


def images(most: int = 24) -> st.SearchStrategy[Image.Image]:
    """RGB images with sides of 1 to ``most`` pixels: of one colour, of noise, or with a square on one colour."""
    return st.builds(
        _image,
        st.integers(1, most),
        st.integers(1, most),
        st.sampled_from(["plain", "noise", "square"]),
        st.integers(0, 2**16),
    )


def _image(width: int, height: int, kind: str, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (height, width, 3)).copy()
    if kind == "noise":
        pixels = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
    if kind == "square":
        pixels[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = rng.integers(0, 256, 3, dtype=np.uint8)
    return Image.fromarray(pixels)


@st.composite
def prompts(draw: st.DrawFn, identifier: str = "p0") -> Prompt:
    """A prompt of one to three things, with or without phrases and checks."""
    things = draw(
        st.lists(st.tuples(st.sampled_from(COLOURS), st.sampled_from(THINGS)), min_size=1, max_size=3, unique=True)
    )
    phrases = tuple(f"{colour} {thing}" for colour, thing in things)
    text = " and ".join(f"a {phrase}" for phrase in phrases)
    checks = tuple(Check("existence", f"is there a {phrase} ?", YES_NO, "yes") for phrase in phrases)
    return Prompt(
        identifier,
        text,
        draw(st.sampled_from(["", "colour"])),
        draw(st.sampled_from(["", "train"])),
        draw(st.sampled_from([phrases, ()])),
        draw(st.sampled_from([checks, ()])),
    )


def boxes(width: int, height: int) -> st.SearchStrategy[Box]:
    """Boxes inside an image, with whole or fractional sides."""
    return st.builds(
        lambda x, y: Box(x[0] * width, y[0] * height, x[1] * width, y[1] * height),
        _spans(width),
        _spans(height),
    )


def _spans(pixels: int) -> st.SearchStrategy[tuple[float, float]]:
    """Two shares of a side, the first the smaller one: such as give whole pixels, or any."""
    whole = st.integers(0, pixels).map(lambda side: side / pixels)
    ends = st.one_of(whole, st.floats(0, 1, width=16))
    return st.tuples(ends, ends).map(sorted).filter(lambda span: span[1] - span[0] > 1e-3).map(lambda s: (s[0], s[1]))


def masks(width: int, height: int) -> st.SearchStrategy[Mask]:
    """Masks of an image's size, with at least one pixel."""

    def made(seed: int) -> Mask:
        pixels = np.random.default_rng(seed).random((height, width)) < 0.5
        pixels[height // 2, width // 2] = True
        return array_mask(pixels)

    return st.integers(0, 2**16).map(made)


def regions(width: int, height: int, phrases: tuple[str, ...] = ("red circle",)) -> st.SearchStrategy[Region]:
    """Regions of an image, some without a phrase, a score or a mask. The mask does not follow from the box."""
    return st.builds(
        Region,
        boxes(width, height),
        st.sampled_from(["", *phrases]),
        st.none() | st.floats(0, 1),
        st.none() | masks(width, height),
    )


@st.composite
def located(draw: st.DrawFn, index: int = 0) -> Located:
    """A candidate of the prompt ``p<index>`` with its image."""
    prompt, image = draw(prompts(f"p{index}")), draw(images())
    seed = draw(st.integers(0, 2**31))
    return Located(prompt, Candidate(f"p{index}-0", prompt.id, 0, seed, f"p{index}-0.png", *image.size), image)


@st.composite
def located_lists(draw: st.DrawFn, most: int = 3) -> list[Located]:
    """One to ``most`` candidates of different prompts."""
    return [draw(located(index)) for index in range(draw(st.integers(1, most)))]


@st.composite
def groundings(draw: st.DrawFn, item: Located, most: int = 3) -> Grounding:
    """Up to ``most`` regions of a candidate."""
    own = regions(item.candidate.width, item.candidate.height, item.prompt.phrases)
    return Grounding(item.candidate.id, tuple(draw(st.lists(own, max_size=most))))


@st.composite
def judgements(draw: st.DrawFn, grounding: Grounding, failures: bool = True) -> Judgement:
    """A judgement of a grounding; with ``failures``, some scores may be missing."""
    scores = FAILURES if failures else st.nothing()
    alpha = draw(st.floats(0, 1).map(Score) | scores)
    local = [draw(st.floats(-1, 1).map(Score) | scores) for _ in grounding.regions]
    return Judgement(grounding.candidate_id, alpha, tuple(local))


@st.composite
def judged(draw: st.DrawFn, index: int = 0, failures: bool = True) -> Judged:
    """A candidate of the prompt ``p<index>`` with all that is known of it."""
    item = draw(located(index))
    grounding = draw(groundings(item))
    return Judged(item.prompt, item.candidate, grounding, draw(judgements(grounding, failures)))


@st.composite
def reward_maps(draw: st.DrawFn, width: int, height: int, least: float = -1.0) -> RewardMap:
    """Maps of an image, whose regions and background lie in [``least``, 1]."""
    values = st.floats(least, 1)
    painted = draw(st.lists(st.builds(MapRegion, boxes(width, height), values), max_size=3))
    return RewardMap(
        width, height, tuple(painted), draw(st.floats(0, 1)), draw(values), draw(st.sampled_from(OVERLAPS))
    )


@st.composite
def rewards(draw: st.DrawFn, candidate: Candidate, least: float = -1.0) -> Reward:
    """A reward of a candidate, with a map as :func:`reward_maps` and any score in [0, 1]."""
    return Reward(candidate.id, draw(reward_maps(candidate.width, candidate.height, least)), draw(st.floats(0, 1)))
