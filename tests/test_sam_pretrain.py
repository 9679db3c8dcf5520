"""The training of the tiny SAM: its pictures, prompts and losses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import sam_torchvision  # noqa: F401 - before what needs torchvision
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from srum_sam.__main__ import main
from srum_sam.loading import load
from srum_sam.options import SHIPPED, Recipe
from srum_sam.pictures import object_masks, training_picture
from srum_sam.pretrain import best_fit, mask_losses, picture_loss, pretrain, prompts
from srum_sam.tiny import tiny_sam
from srum_shapes.world import sample_scene

from srum_plugins.records import Box

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_every_pixel_of_a_picture_belongs_to_one_thing(seed: int) -> None:
    picture = training_picture(np.random.default_rng(seed))
    assert picture.pixels.shape == (32, 32, 3) and picture.pixels.dtype == np.uint8
    assert (picture.masks.sum(axis=0) == 1).all()
    assert picture.masks.any(axis=(1, 2)).all()


@given(seeds)
def test_the_masks_of_a_scene_fill_its_boxes(seed: int) -> None:
    scene = sample_scene(np.random.default_rng(seed))
    for mask, item in zip(object_masks(scene), scene.objects, strict=True):
        rows, columns = np.nonzero(mask)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (
            item.box.x0,
            item.box.y0,
            item.box.x1,
            item.box.y1,
        )


@given(seeds, st.floats(0.0, 1.0))
def test_prompts_lie_on_what_they_ask_for_or_a_pixel_beside_it(seed: int, beside: float) -> None:
    rng = np.random.default_rng(seed)
    picture, recipe = training_picture(rng), Recipe(points=20, beside=beside)
    points, wanted = prompts(picture, recipe, rng)
    assert points.shape == (20, 2) and wanted.shape == (20,)
    for (x, y), index in zip(np.floor(points).astype(int), wanted, strict=True):
        near = picture.masks[index, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert picture.masks[index, y, x] or (beside > 0.0 and near.any() and picture.masks[0, y, x])


def test_of_prompts_the_stated_share_asks_for_objects() -> None:
    rng = np.random.default_rng(0)
    picture = next(p for p in (training_picture(rng) for _ in range(9)) if len(p.masks) > 2)
    _, wanted = prompts(picture, Recipe(points=2000, objects=0.7), rng)
    assert abs((wanted > 0).mean() - 0.7) < 4 * math.sqrt(0.7 * 0.3 / 2000)


@given(seeds)
def test_a_mask_closer_to_the_truth_costs_less(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    target = (torch.rand(1, 8, 8, generator=rng) < 0.4).float()
    right = (2 * target - 1)[:, None]
    costs = [mask_losses(sure * right, target).item() for sure in (-4.0, 0.0, 4.0, 12.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(0.0, abs=1e-3)


def test_mask_losses_are_those_of_their_formulas() -> None:
    """By hand, for a mask of two pixels of which one is sure by 0.8 and right, the other by 0.8 and wrong."""
    logit = math.log(0.8 / 0.2)
    found = mask_losses(torch.tensor([[[[logit, logit]]]]), torch.tensor([[[1.0, 0.0]]])).item()
    focal = (0.25 * 0.2**2 * -math.log(0.8) + 0.75 * 0.8**2 * -math.log(0.2)) / 2
    dice = 1 - (2 * 0.8 + 1) / (1.6 + 1.0 + 1)
    assert found == pytest.approx(20 * focal + dice, rel=1e-5)


def box_around(mask: NDArray[np.bool_]) -> Box:
    rows, columns = np.nonzero(mask)
    return Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@given(seeds)
def test_the_best_fit_is_the_lower_iou_of_masks_and_boxes_with_the_nearest_true_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, true = rng.random((2, 3, 5, 6)) < 0.2, rng.random((4, 5, 6)) < 0.2
    found[0, 0] = False
    true[:, 2, 2] = True
    fits = best_fit(torch.from_numpy(found), torch.from_numpy(true)).numpy()
    for index in np.ndindex(2, 3):
        one = found[index]
        each = [
            min((one & other).sum() / (one | other).sum(), box_around(one).iou(box_around(other)))
            for other in true
            if one.any()
        ]
        assert fits[index] == pytest.approx(max(each, default=0.0))


def test_the_loss_reaches_every_weight_that_point_prompts_use() -> None:
    torch.manual_seed(0)
    model, rng = tiny_sam(), np.random.default_rng(0)
    picture = training_picture(rng)
    points, wanted = prompts(picture, Recipe(), rng)
    embedding = model.image_encoder(model.preprocess(torch.rand(1, 3, 32, 32) * 255))
    torch.autograd.backward(picture_loss(model, embedding, picture, torch.from_numpy(points), torch.from_numpy(wanted)))
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    others = ("prompt_encoder.point_embeddings.", "prompt_encoder.mask_downscaling.")  # background points, boxes, masks
    assert all(name.startswith(others) for name in idle), idle
    assert "prompt_encoder.point_embeddings.1.weight" not in idle


def test_a_training_is_repeatable_and_its_weights_load(tmp_path: Path) -> None:
    for name in ("one", "two"):
        pretrain(Recipe(steps=3, pictures=2, points=2), tmp_path / name)
    one, two = (tmp_path / name / SHIPPED.name for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    load("tiny", one, "cpu")
    assert json.loads((tmp_path / "one/recipe.json").read_text())["steps"] == 3
    (row,) = (tmp_path / "one/log.jsonl").read_text().splitlines()
    assert json.loads(row)["step"] == 3


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("steps=0", "pretrain.steps must be at least 1"),
        ("objects=1.5", "pretrain.objects must lie in [0, 1]"),
        ("lr=0", "pretrain.lr must be positive"),
        ("seed=-1", "pretrain.seed must not be negative"),
    ],
)
def test_settings_without_sense_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, words: str
) -> None:
    assert main(["pretrain", str(tmp_path / "run"), flag]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@given(st.integers(2, 400), st.integers(1, 50))
def test_rates_rise_and_fall(steps: int, warmup: int) -> None:
    recipe = Recipe(steps=steps, warmup=warmup)
    rates = [recipe.rate(step) for step in range(steps)]
    assert all(0.0 < rate <= recipe.lr for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)
