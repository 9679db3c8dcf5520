"""The training of the tiny SAM."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from scipy import ndimage
from torch import Tensor, nn

from srum_plugins.runs.files import write_json
from srum_plugins.weights import save_weights
from srum_sam.options import SHIPPED, Recipe
from srum_sam.pictures import Picture, training_picture
from srum_sam.tiny import tiny_sam

console = Console()
AROUND = np.ones((3, 3), dtype=bool)
"""A pixel and its eight neighbours."""


def prompts(picture: Picture, recipe: Recipe, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Points (P, 2) as (x, y) in pixels of the picture, and which mask each asks for, (P,)."""
    count = len(picture.masks)
    points = np.empty((recipe.points, 2), dtype=np.float32)
    wanted = np.zeros(recipe.points, dtype=np.intp)
    for index in range(recipe.points):
        area = picture.masks[0]
        if count > 1 and rng.random() < recipe.objects:
            wanted[index] = rng.integers(1, count)
            area = picture.masks[wanted[index]]
            if rng.random() < recipe.beside:
                area = area | (ndimage.binary_dilation(area, AROUND) & picture.masks[0])
        rows, columns = np.nonzero(area)
        chosen = rng.integers(len(rows))
        points[index] = columns[chosen] + rng.random(), rows[chosen] + rng.random()
    return points, wanted


def mask_losses(logits: Tensor, target: Tensor) -> Tensor:
    """SAM's loss of each mask: 20 focal (alpha 0.25, gamma 2) + dice. Logits (P, K, H, W) and targets (P, H, W) in
    {0, 1} give (P, K)."""
    target = target[:, None].expand_as(logits)
    sure = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    right = sure * target + (1 - sure) * (1 - target)
    focal = ((0.25 * target + 0.75 * (1 - target)) * (1 - right) ** 2 * entropy).mean(dim=(2, 3))
    shared = (sure * target).sum(dim=(2, 3))
    dice = 1 - (2 * shared + 1) / (sure.sum(dim=(2, 3)) + target.sum(dim=(2, 3)) + 1)
    return 20 * focal + dice


def best_fit(found: Tensor, masks: Tensor) -> Tensor:
    """How well each found mask (P, K, H, W) bool fits whichever true one (N, H, W) bool it fits best, (P, K): the IoU
    of the masks or that of their boxes, whichever is lower. 0 for an empty mask."""
    one, other = found.flatten(2).float(), masks.flatten(1).float()
    shared = one @ other.T
    of_masks = shared / (one.sum(2, keepdim=True) + other.sum(1) - shared)
    mine, true = _corners(found)[:, :, None], _corners(masks)
    low, high = torch.maximum(mine[..., :2], true[..., :2]), torch.minimum(mine[..., 2:], true[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(corners[..., 2:] - corners[..., :2]).prod(-1) for corners in (mine, true)]
    of_boxes = common / (areas[0] + areas[1] - common)
    return torch.minimum(of_masks, of_boxes).max(dim=2).values


def _corners(masks: Tensor) -> Tensor:
    """Half-open x0, y0, x1, y1 of the boxes around masks (..., H, W) bool, float32; the whole picture for none."""
    sides = []
    for along in (masks.any(-2).float(), masks.any(-1).float()):
        sides.append((along.argmax(-1), along.shape[-1] - along.flip(-1).argmax(-1)))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=-1).float()


def picture_loss(model: Any, embedding: Tensor, picture: Picture, points: Tensor, wanted: Tensor) -> Tensor:
    """The loss of one picture's prompts, a scalar. ``embedding`` (1, C, h, w); points (P, 2) in pixels of the picture;
    ``wanted`` (P,) the index of each one's mask.

    As SAM's: of the three masks of a point the best counts, the fourth is for prompts that are not ambiguous, and the
    quality head learns how well they fit. But any true mask will do: what a grid of points finds is good if it is a
    thing, whichever was meant. And the boxes must fit too, which a few stray pixels spoil.
    """
    labels = torch.ones(len(points), 1, dtype=torch.int)
    # The encoder takes the numbers of pixels, and adds a half.
    sparse, dense = model.prompt_encoder(points=(points[:, None] - 0.5, labels), boxes=None, masks=None)
    logits, quality = model.mask_decoder.predict_masks(
        image_embeddings=embedding,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )
    masks = torch.from_numpy(picture.masks)
    losses = mask_losses(logits, masks[wanted].float())
    with torch.no_grad():
        fit = best_fit(logits > 0, masks)
    drawn = losses[:, 0].mean() + losses[:, 1:].min(dim=1).values.mean()
    return drawn + F.mse_loss(quality, fit)


def pretrain(recipe: Recipe, folder: Path) -> None:
    """Train from scratch; ends with the weights in half precision, the recipe and a log of the loss in ``folder``."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)
    model = tiny_sam()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "recipe.json", asdict(recipe))
    began, recent = time.monotonic(), []
    with (folder / "log.jsonl").open("w") as log:
        for step in range(recipe.steps):
            rng = np.random.default_rng((recipe.seed, step))
            pictures = [training_picture(rng) for _ in range(recipe.pictures)]
            pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures])).permute(0, 3, 1, 2).float()
            embeddings = model.image_encoder(model.preprocess(pixels))
            losses = []
            for picture, embedding in zip(pictures, embeddings, strict=True):
                points, wanted = prompts(picture, recipe, rng)
                losses.append(
                    picture_loss(model, embedding[None], picture, torch.from_numpy(points), torch.from_numpy(wanted))
                )
            loss = torch.stack(losses).mean()
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            recent.append(loss.item())
            if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
                row = {"step": step + 1, "loss": round(float(np.mean(recent)), 4)}
                log.write(json.dumps(row) + "\n")
                console.print(row, f"{time.monotonic() - began:.0f} s")
                recent.clear()
    save_weights({name: value.half() for name, value in model.state_dict().items()}, folder / SHIPPED.name)
