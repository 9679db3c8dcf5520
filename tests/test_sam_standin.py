"""The tests' stand-in for torchvision does what SAM asks of torchvision."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

FOLDER = Path(__file__).parent / "standins" / "torchvision"


def module(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"standin_{Path(file).stem}", FOLDER / file)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


boxes, functional = module("ops/boxes.py"), module("transforms/functional.py")


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.floats(0.0, 1.0))
def test_suppressed_boxes_overlap_a_better_one_that_is_kept(seed: int, count: int, threshold: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 12, (count, 2), generator=rng).float()
    some = torch.cat([corners, corners + torch.randint(1, 9, (count, 2), generator=rng)], dim=1)
    scores, groups = torch.rand(count, generator=rng), torch.randint(0, 2, (count,), generator=rng)
    kept = boxes.batched_nms(some, scores, groups, threshold).tolist()
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)
    iou = boxes.box_iou(some, some)
    near = (iou > threshold) & (groups[:, None] == groups)
    for index in range(count):
        rivals = [other for other in kept if other != index and near[index, other]]
        if index in kept:
            assert not rivals
        else:
            assert any(scores[other] >= scores[index] for other in rivals)


def test_box_iou_is_intersection_over_union() -> None:
    some = torch.tensor([[0.0, 0.0, 4.0, 2.0], [2.0, 0.0, 6.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    expected = torch.tensor([[1.0, 1 / 3, 0.0], [1 / 3, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(boxes.box_iou(some, some), expected)
    assert boxes.box_area(some).tolist() == [8.0, 8.0, 1.0]


def test_pictures_are_resized_to_height_and_width() -> None:
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[:, 3:] = 200
    image = functional.resize(functional.to_pil_image(pixels), (8, 12))
    assert isinstance(image, Image.Image) and image.size == (12, 8)
    assert np.asarray(image)[4, 0].tolist() == [0, 0, 0] and np.asarray(image)[4, 11].tolist() == [200, 200, 200]
