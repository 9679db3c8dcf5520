"""Images as Qwen2.5-VL sees them: resized to whole tokens, and cut into patches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLConfig

from srum_plugins.errors import CheckpointError, ContractError

PREPROCESSOR = "preprocessor_config.json"
PIXELS = (200704, 1605632)
"""The fewest and the most pixels of an image as it is seen, as in the original's evaluation (blip3o.md 5)."""
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in [0, 1]: those of CLIP, which Qwen2.5-VL's published ``preprocessor_config.json`` states and
transformers' image processor of this model has by default. The original always takes the processor of Qwen's own
repository (blip3o.md 5), so that a folder may hold none."""
NARROWEST = 200
"""Of an image's sides, the most that one may have of the other (blip3o.md 5.1)."""
ROUNDING = 1e-6
"""Of what a file may write of a mean."""


@dataclass(frozen=True)
class Prepared:
    """Patches (P, 3 * t * p * p) of several images, one image after the other, and their grids (N, 3): frames, and
    patches down and across."""

    patches: Tensor
    grids: Tensor


class Preparation:
    """Resizes by Qwen2.5-VL's rule, with the image processor of transformers that needs Pillow alone."""

    def __init__(self, patch: int, merge: int, frames: int, pixels: tuple[int, int]) -> None:
        """``patch`` pixels make one side of a patch, ``merge`` patches one side of a token, ``frames`` one patch in
        time; ``pixels`` are the fewest and the most.

        Raises:
            ContractError: ``pixels`` are no range, or leave no room for one token.
        """
        from transformers import Qwen2VLImageProcessorPil

        fewest, most = pixels
        if not (0 < fewest <= most and most >= (patch * merge) ** 2):
            raise ContractError(
                f"pixels must be the fewest and the most of an image, at least {(patch * merge) ** 2}, got {pixels}"
            )
        self.patch, self.merge = patch, merge
        self._processor: Any = Qwen2VLImageProcessorPil(
            patch_size=patch,
            merge_size=merge,
            temporal_patch_size=frames,
            image_mean=list(MEAN),
            image_std=list(DEVIATION),
            size={"shortest_edge": fewest, "longest_edge": most},
        )

    def prepare(self, images: Sequence[Image.Image]) -> Prepared:
        """Patches and grids of images, of any sizes.

        Raises:
            ContractError: one is too long and narrow.
        """
        for image in images:
            if max(image.size) > NARROWEST * min(image.size):
                raise ContractError(
                    f"an image of {image.width} x {image.height} pixels is too narrow to be seen: no side may be more "
                    f"than {NARROWEST} times the other"
                )
        done = self._processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        return Prepared(done["pixel_values"], done["image_grid_thw"])

    def seen_size(self, grid: Tensor) -> tuple[int, int]:
        """(width, height) in pixels of an image as it is seen, which its boxes are counted in (blip3o.md 5.1)."""
        _, height, width = grid.tolist()
        return width * self.patch, height * self.patch


def vision_preparation(config: Qwen2_5_VLConfig, pixels: tuple[int, int]) -> Preparation:
    """The preparation that fits a config; ``pixels`` are the fewest and the most of an image as it is seen."""
    vision: Any = config.vision_config
    return Preparation(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, pixels)


def read_preparation(folder: Path, config: Qwen2_5_VLConfig, pixels: tuple[int, int]) -> Preparation:
    """The preparation that fits a config. A folder may hold no file of the image processor; one that it holds must say
    the same, but for the numbers of pixels, which ``pixels`` gives.

    Raises:
        CheckpointError: the file is damaged, or asks for another preparation.
    """
    vision: Any = config.vision_config
    file = folder / PREPROCESSOR
    if file.is_file():
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{file} is damaged: {error}") from error
        if not isinstance(data, dict):
            raise CheckpointError(f"{file} holds no mapping")
        same = {
            "patch_size": vision.patch_size,
            "merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
        }
        wrong = [
            f"{name} is {data[name]!r}, not {value}" for name, value in same.items() if data.get(name, value) != value
        ]
        for name, values in (("image_mean", MEAN), ("image_std", DEVIATION)):
            if name in data and not _near(data[name], values):
                wrong.append(f"{name} is {data[name]!r}, not {values}")
        if wrong:
            raise CheckpointError(f"{file} does not fit a BLIP3o: {'; '.join(wrong)}")
    return vision_preparation(config, pixels)


def _near(values: object, wanted: Sequence[float]) -> bool:
    if not (isinstance(values, list) and len(values) == len(wanted)):
        return False
    pairs = zip(values, wanted, strict=True)
    return all(isinstance(value, int | float) and abs(value - one) <= ROUNDING for value, one in pairs)
