"""What users can set of the grounder ``sam``, and of the training of the tiny SAM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Model = Literal["tiny", "vit_b", "vit_l", "vit_h"]
Order = Literal["area", "score"]

SHIPPED = Path(__file__).parent / "checkpoint" / "tiny.safetensors"
"""The tiny SAM that comes with the package."""

TINY = {
    "points_per_side": 8,
    "pred_iou_thresh": 0.8,
    "stability_score_thresh": 0.8,
    "box_nms_thresh": 0.4,
    "min_mask_region_area": 6,
}
"""Settings that suit pictures of 32 x 32 pixels."""
RELEASED = {
    "points_per_side": 32,
    "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.95,
    "box_nms_thresh": 0.7,
    "min_mask_region_area": 0,
}
"""segment-anything's own settings, chosen for ViT-H."""


@dataclass(frozen=True)
class SamOptions:
    """``model`` is the tiny SAM or the size of a released one, ``checkpoint`` its file, .safetensors or the .pth that
    was released; null is the shipped tiny one. ``device`` is where it runs, such as ``cuda``.

    The mask generator's settings have segment-anything's names and meanings, and its defaults, but for five that are
    null: those are chosen by the model. It asks for masks at a grid of ``points_per_side`` x ``points_per_side``
    points, ``points_per_batch`` at a time. Masks are dropped whose predicted IoU is not above ``pred_iou_thresh``, or
    whose stability, the IoU of the masks cut at plus and minus ``stability_score_offset``, is below
    ``stability_score_thresh``; and of two whose boxes have an IoU above ``box_nms_thresh`` the one that is predicted
    worse. With ``crop_n_layers`` it is asked again on crops, meant for pictures of many hundred pixels: layer i has
    (2 ** i) ** 2 of them, which overlap by ``crop_overlap_ratio`` of the shorter side, with points per side divided by
    ``crop_n_points_downscale_factor`` ** i, and duplicates between crops are dropped by ``crop_nms_thresh``. Holes and
    islands of fewer than ``min_mask_region_area`` pixels are removed from masks at last.

    What is left becomes regions: boxes, or with ``masks`` boxes with their masks, which rewards then follow. Areas and
    overlaps below are those of the boxes, or with ``masks`` of the masks. Regions smaller than ``min_area`` or larger
    than ``max_area``, as shares of the image, are dropped; of two whose IoU exceeds ``duplicates`` the one with the
    lower score; and of the others all but the first ``max_regions`` in the ``order`` of their area or score, the
    highest first.
    """

    model: Model = "tiny"
    checkpoint: str | None = None
    device: str = "cpu"

    points_per_side: int | None = None
    points_per_batch: int = 64
    pred_iou_thresh: float | None = None
    stability_score_thresh: float | None = None
    stability_score_offset: float = 1.0
    box_nms_thresh: float | None = None
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int | None = None

    min_area: float = 0.005
    max_area: float = 0.5
    duplicates: float = 0.7
    max_regions: int = 8
    order: Order = "area"
    masks: bool = False

    def __post_init__(self) -> None:
        if self.model != "tiny" and self.checkpoint is None:
            raise ValueError(f"checkpoint must name the file of {self.model}'s weights; only the tiny SAM is shipped")
        for name, least in (
            ("points_per_side", 1),
            ("points_per_batch", 1),
            ("crop_n_layers", 0),
            ("crop_n_points_downscale_factor", 1),
            ("min_mask_region_area", 0),
            ("max_regions", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name in (
            "pred_iou_thresh",
            "stability_score_thresh",
            "box_nms_thresh",
            "crop_nms_thresh",
            "crop_overlap_ratio",
            "duplicates",
        ):
            share = getattr(self, name)
            if share is not None and not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {share}")
        if not self.stability_score_offset > 0.0:
            raise ValueError(f"stability_score_offset must be positive, got {self.stability_score_offset}")
        if not 0.0 <= self.min_area < self.max_area <= 1.0:
            raise ValueError(
                f"min_area and max_area must lie in [0, 1], the first below the second, got {self.min_area} and "
                f"{self.max_area}"
            )
        points, factor = self.chosen("points_per_side"), self.crop_n_points_downscale_factor
        if points < factor**self.crop_n_layers:
            raise ValueError(
                f"crop_n_points_downscale_factor={factor} leaves no point of {points} a side in layer "
                f"{self.crop_n_layers} of the crops"
            )

    @property
    def file(self) -> Path:
        """The checkpoint's file."""
        return SHIPPED if self.checkpoint is None else Path(self.checkpoint).expanduser()

    @property
    def generator(self) -> dict[str, Any]:
        """The settings of ``SamAutomaticMaskGenerator`` by name, without nulls; but for ``min_mask_region_area``, for
        which it would need OpenCV."""
        names = (
            "points_per_side",
            "points_per_batch",
            "pred_iou_thresh",
            "stability_score_thresh",
            "stability_score_offset",
            "box_nms_thresh",
            "crop_n_layers",
            "crop_nms_thresh",
            "crop_overlap_ratio",
            "crop_n_points_downscale_factor",
        )
        return {name: self.chosen(name) for name in names}

    def chosen(self, name: str) -> Any:
        """A setting, or what suits the model where it is null."""
        value = getattr(self, name)
        return (TINY if self.model == "tiny" else RELEASED)[name] if value is None else value


@dataclass(frozen=True)
class Recipe:
    """``steps`` of ``pictures`` fresh pictures with ``points`` prompts each, one thread, AdamW. The rate rises over
    ``warmup`` steps to ``lr`` and falls along half a cosine to zero. Of the points a share ``objects`` asks for an
    object, the others for the background; of the former a share ``beside`` lies up to a pixel beside the object, as
    points of a coarse grid do. Everything random follows from ``seed``."""

    steps: int = 2500
    pictures: int = 8
    points: int = 10
    objects: float = 0.8
    beside: float = 0.25
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "pictures", "points", "warmup"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("objects", "beside"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not self.lr > 0.0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        for name in ("weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup)
        return self.lr * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))
