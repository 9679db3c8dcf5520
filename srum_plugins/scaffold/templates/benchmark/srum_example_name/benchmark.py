"""Prompts that ask for one colour, and a count of the pixels that have it. No model judges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from srum_plugins.contracts import Benchmark, ModelAdapter, Verdict
from srum_plugins.records import Prompt

from srum_example_name.plugin import Options

COLOURS = {"red": (220, 40, 40), "green": (40, 175, 60), "blue": (35, 85, 225), "yellow": (245, 205, 35)}
SHAPES = {"in_domain": ("circle", "square"), "out_of_domain": ("triangle", "cross")}
"""By split. Which of them the training prompts lack is for you to know."""
LEVELS = 80
"""A pixel has a colour if it is no farther from it than this, over its three channels of 255 levels."""


class ExampleNameBenchmark(Benchmark):
    """``full`` is 1 where enough pixels have the colour, else 0; ``share`` is the share of those that have it."""

    def __init__(self, options: Options) -> None:
        self._share = options.share

    def prompts(self) -> list[Prompt]:
        """One prompt for each colour and shape; its category is the colour."""
        return [
            Prompt(f"{split}-{colour}-{shape}", f"a {colour} {shape}", colour, split, (f"{colour} {shape}",))
            for split, shapes in SHAPES.items()
            for colour in COLOURS
            for shape in shapes
        ]

    def score(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], model: ModelAdapter | None
    ) -> list[Verdict]:
        """One verdict per image."""
        verdicts = []
        for prompt, image in zip(prompts, images, strict=True):
            apart = np.asarray(image.convert("RGB"), dtype=np.float64) - COLOURS[prompt.category]
            share = float((np.linalg.norm(apart, axis=2) <= LEVELS).mean())
            verdicts.append(Verdict(prompt.id, {"full": float(share >= self._share), "share": share}))
        return verdicts
