"""What the judge ``rubric`` asks, and the form that it asks answers to have."""

from __future__ import annotations

import re
from collections.abc import Mapping

GLOBAL = """\
Compare the image with this description: {text}
Look at every object, its number, its colour, its shape and its place.
Answer in two lines:
reason: what the image shows
score: a number from 0.0 (nothing fits) to 1.0 (everything fits)"""
"""Asked about the whole image; ``{text}`` becomes the prompt."""

REGIONS = """\
The image was made for this description: {text}
Regions of it are marked:
{regions}
Look at what each region shows and how well that is done.
Answer in one line for each region:
R1 | what the region shows | a number from -1.0 (wrong) to 1.0 (right)"""
"""Asked about all regions at once; ``{regions}`` becomes a line for each."""

REGION = "{name}: {phrase} at {x0} {y0} {x1} {y1}"
"""One line of ``{regions}``: the region's name, what it should be, and its box in pixels of the shown image."""

ANYTHING = "a part of the image"
"""What a region without a phrase should be."""

THINK = "Think first, between <think> and </think>."
"""Added where thinking is wanted."""

CROPS = """\
The image shows framed regions that were cut out of a picture, each below its name.
The picture was made for this description: {text}
The regions are:
{regions}
Look at what each region shows and how well that is done.
Answer in one line for each region:
R1 | what the region shows | a number from -1.0 (wrong) to 1.0 (right)"""
"""Asked in place of ``REGIONS`` where regions are shown as crops."""

CROP = "{name}: {phrase}"
"""One line of ``{regions}`` there. A crop has no place in the image that is shown, so none is named."""


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with its placeholders replaced, all at once: what a prompt says is never a placeholder."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in values), lambda found: values[found[0][1:-1]], template)
