"""How well SAM's boxes fit the objects of the drawn world: the figures of the tiny SAM's model card."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment
from srum_shapes.oracle import inspect
from srum_shapes.world import render, sample_scene

from srum_plugins.contracts import Located
from srum_plugins.errors import ConfigError
from srum_plugins.records import Box, Candidate, Prompt
from srum_sam.grounder import SamGrounder
from srum_sam.options import SamOptions

HELD_OUT = 10**6
"""Seeds from here on draw pictures that no training saw."""

Truth = tuple[Image.Image, list[Box]]
"""A picture and the box of each of its objects."""


def held_out(count: int) -> Iterator[Truth]:
    """Fresh scenes of the drawn world."""
    for number in range(count):
        rng = np.random.default_rng(HELD_OUT + number)
        scene = sample_scene(rng)
        yield Image.fromarray(render(scene, rng)), [item.box for item in scene.objects]


def read_by_oracle(folder: Path) -> Iterator[Truth]:
    """The PNG files of a folder, drawn by a model, and the boxes of the objects that the oracle reads in them; without
    those in which it finds something of no known shape, whose boxes it does not tell.

    Raises:
        ConfigError: there are none.
    """
    files = sorted(folder.glob("*.png"))
    if not files:
        raise ConfigError(f"there are no PNG files in {folder}")
    for file in files:
        image = Image.open(file).convert("RGB")
        reading = inspect(np.asarray(image))
        if not reading.unreadable:
            yield image, [item.box for item in reading.objects]


def matched(found: Sequence[Box], true: Sequence[Box]) -> list[float]:
    """The IoU of each true box with the found one that it is paired with, so that their sum is largest; 0 without."""
    table = np.array([[one.iou(other) for other in found] for one in true]).reshape(len(true), len(found))
    ious = np.zeros(len(true))
    rows, columns = linear_sum_assignment(table, maximize=True)
    ious[rows] = table[rows, columns]
    return ious.tolist()


def measure(options: SamOptions, pictures: Iterable[Truth]) -> dict[str, Any]:
    """Over all true boxes the mean IoU, where one that was missed counts 0, and the share above 0.5; by picture, found
    boxes that fit no true one by more than 0.5, and seconds."""
    grounder = SamGrounder(options)
    ious: list[float] = []
    needless = count = 0
    began = time.monotonic()
    for image, boxes in pictures:
        located = Located(Prompt("", ""), Candidate("", "", 0, 0, "", *image.size), image)
        (grounding,) = grounder.ground([located], None)
        own = matched([region.box for region in grounding.regions], boxes)
        ious += own
        needless += len(grounding.regions) - sum(iou > 0.5 for iou in own)
        count += 1
    return {
        "pictures": count,
        "objects": len(ious),
        "mean_iou": round(float(np.mean(ious)), 3),
        "above_half": round(float(np.mean(np.array(ious) > 0.5)), 3),
        "needless_boxes_per_picture": round(needless / count, 3),
        "seconds_per_picture": round((time.monotonic() - began) / count, 3),
    }
