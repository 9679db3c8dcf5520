"""Checks of what training begins with: the token grid, latents of images, and the random draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from srum_plugins.contracts import Capability, Draws
from srum_plugins.records import Box
from srum_plugins.testing.adapter_suite import AdapterSubject, AdapterSuite, Size, near, random_kept
from srum_plugins.testing.painted import painted, repainted

IMAGES = 64
"""Whose draws are looked at together: enough to tell noise of variance 1 from other noise."""
NEAR = 1e-4
LEAST = 1e-30
"""In place of no change at all, which has no logarithm."""
LOOKS = 4
"""Predictions over which a change of losses is averaged: one alone may be blind to it at a token."""
FINITE = "look for a division by zero or half precision in the encoder"
GIVEN = "draw from the generator that is given, and from nothing else"


def place(index: int, parts: int) -> str:
    """The name of a part of an image that is divided so many times each way, row by row."""
    row, column = divmod(index, parts)
    if parts == 2:
        return f"{('top', 'bottom')[row]} {('left', 'right')[column]} part"
    return f"part {row + 1} down and {column + 1} across, of {parts} x {parts}"


def bounds(size: int, parts: int) -> list[int]:
    """Where so many parts of a side begin and end, in whole numbers: parts + 1 of them."""
    return [round(index * size / parts) for index in range(parts + 1)]


def boxes(size: Size, parts: int) -> list[Box]:
    """The parts of an image of this (width, height), row by row, in whole pixels."""
    xs, ys = bounds(size[0], parts), bounds(size[1], parts)
    return [Box(xs[x], ys[y], xs[x + 1], ys[y + 1]) for y in range(parts) for x in range(parts)]


def shares(changes: Tensor, parts: int) -> NDArray[np.float64]:
    """How the change of each token on an (h, w) grid is shared among its parts (parts * parts,), as means that sum to
    1."""
    height, width = changes.shape
    ys, xs = bounds(height, parts), bounds(width, parts)
    means = np.array(
        [
            float(changes[ys[y] : ys[y + 1], xs[x] : xs[x + 1]].double().mean())
            for y in range(parts)
            for x in range(parts)
        ]
    )
    found: NDArray[np.float64] = means / max(float(means.sum()), LEAST)
    return found


def misplaced(table: NDArray[np.float64]) -> tuple[int, int] | None:
    """Row i of the table says how a change of part i is shared among the parts of the grid. None if the changes fit
    their own parts best, all taken together; else a part and the one that its change fits better.

    Of logarithms, so that neither a part whose tokens always move far nor one that moves all tokens counts for more.
    """
    rows, columns = linear_sum_assignment(np.log(np.maximum(table, LEAST)), maximize=True)
    wrong = [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if row != column]
    return wrong[0] if wrong else None


class LatentChecks(AdapterSuite):
    """``token_grid``, ``encode`` and ``draw``."""

    def test_latents_are_float32_and_do_not_depend_on_their_batch(self, adapter: AdapterSubject) -> None:
        """(B, C, H, W), the same at every call."""
        adapter.needs(Capability.TRAIN)
        _needs_encoding(adapter)
        for size in (adapter.size, *adapter.sizes):
            images = [painted(size, seed) for seed in (1, 2)]
            latents = adapter.model.encode(images)
            adapter.require(
                not latents.requires_grad,
                "encode",
                "keeps a gradient",
                "encode in torch.no_grad(): an image that is trained on needs none, and it takes memory",
            )
            adapter.require(bool(torch.isfinite(latents).all()), "encode", "gave latents that are not finite", FINITE)
            turned = adapter.model.encode(images[::-1]).flip(0)
            alone = torch.stack(adapter.encoded(images))
            for way, other in (("in another order", turned), ("alone", alone)):
                adapter.require(
                    near(latents, other, NEAR),
                    "encode",
                    f"latents of an image are others {way}",
                    "take the mode of the posterior, not a sample, and let no image see another",
                )
            adapter.require(
                not near(latents[0], latents[1], NEAR),
                "encode",
                "two images have the same latents",
                "encode what is in them",
            )

    def test_draws_come_from_the_generator_alone(self, adapter: AdapterSubject) -> None:
        """The same seed gives the same, whatever the global random numbers are, and another seed gives others: all
        that is not the same for every image."""
        adapter.needs(Capability.TRAIN)
        self._draws(adapter, 0)  # to make the model, and to encode, may move them
        drawn = []
        for state, seed in ((1, 0), (2, 0), (3, 1)):
            with random_kept(adapter, "draw", state, GIVEN):
                drawn.append(self._draws(adapter, seed))
        first, again, other = map(_by_name, drawn)
        for name, values in first.items():
            adapter.require(
                torch.equal(values, again[name]),
                "draw",
                f"gives other {name} although its generator's seed is the same",
                GIVEN,
            )
            adapter.require(
                bool((values == values[0]).all()) or not torch.equal(values, other[name]),
                "draw",
                f"gives the same {name} for another seed",
                GIVEN,
            )

    def test_draws_have_the_shapes_and_ranges_of_their_contract(self, adapter: AdapterSubject) -> None:
        """Timesteps in [0, 1], noise of variance 1, conditions dropped for some."""
        adapter.needs(Capability.TRAIN)
        draws = self._draws(adapter, 0)
        time, drop, noise = draws.timestep, draws.drop, draws.noise
        adapter.require(
            time.shape == (IMAGES,) and time.dtype == torch.float32,
            "draw",
            f"timesteps are {time.dtype} of shape {tuple(time.shape)} for {IMAGES} images",
            "draw one float32 an image",
        )
        adapter.require(
            bool(((time >= 0) & (time <= 1)).all()),
            "draw",
            f"timesteps lie in [{float(time.min()):.3g}, {float(time.max()):.3g}]",
            "timesteps lie in [0, 1], and 1 is pure noise",
        )
        adapter.require(
            drop.shape == (IMAGES,) and drop.dtype == torch.bool and not bool(drop.all()),
            "draw",
            f"drop is {drop.dtype} of shape {tuple(drop.shape)} for {IMAGES} images, {int(drop.sum())} of them true",
            "draw one bool an image, true where its condition is to be dropped",
        )
        adapter.require(
            len(noise) == IMAGES, "draw", f"gives noise for {len(noise)} of {IMAGES} images", "draw some for each"
        )
        if not self.flow:
            return
        shape = adapter.latents[0].shape
        if odd := [one for one in noise if one.shape != shape or one.dtype != torch.float32]:
            adapter.breach(
                "draw",
                f"noise is {odd[0].dtype} of shape {tuple(odd[0].shape)} for latents of {tuple(shape)}",
                "draw float32 noise of the shape of each image's latents",
            )
        values = torch.stack(list(noise)).double()
        mean, variance = float(values.mean()), float(values.var())
        allowed = 6 / values.numel() ** 0.5  # of the mean, and of the variance with a factor of sqrt(2)
        adapter.require(
            abs(mean) <= allowed and abs(variance - 1) <= 1.5 * allowed,
            "draw",
            f"noise has the mean {mean:.3f} and the variance {variance:.3f}",
            "draw it from a normal distribution of mean 0 and variance 1: torch.randn",
        )
        adapter.require(
            not torch.equal(noise[0], noise[1]) and float(time.max()) > float(time.min()),
            "draw",
            "gives all images the same noise or the same timestep",
            "draw for each image anew",
        )

    def _draws(self, adapter: AdapterSubject, seed: int) -> Draws:
        return adapter.model.draw([adapter.latents[0]] * IMAGES, torch.Generator().manual_seed(seed))

    def test_tokens_lie_where_their_part_of_the_image_is(self, adapter: AdapterSubject) -> None:
        """What is painted anew in a part of the image moves the losses of the tokens in that part of the token grid,
        laid out row by row from the top left: so a reward on a region reaches the tokens of that region."""
        adapter.needs(Capability.TRAIN)
        _needs_encoding(adapter)
        looked = False
        for size in (adapter.size, *adapter.sizes):
            height, width = adapter.model.token_grid(*size)
            parts = min(self.parts, height, width)
            if parts < 2:
                continue
            looked = True
            table = np.stack([shares(change, parts) for change in self._changes(adapter, size, parts, (height, width))])
            if wrong := misplaced(table):
                painted_part, moved = (place(index, parts) for index in wrong)
                adapter.breach(
                    "token_losses",
                    f"in images of {size[0]} x {size[1]} pixels, painting the {painted_part} anew moves the losses "
                    f"of the tokens at the {moved}, as they lie row by row on token_grid {(height, width)}",
                    "give tokens row-major from the top left, in an (h, w) = (rows, columns) grid; a transposed or "
                    "flipped grid puts rewards on the wrong tokens",
                )
        if not looked:
            pytest.skip("a grid of one row or column has no order that could be seen")

    def _changes(self, adapter: AdapterSubject, size: Size, parts: int, grid: tuple[int, int]) -> list[Tensor]:
        """For each part, how far the loss of each token (h, w) moves if that part is painted anew."""
        image, prompt = painted(size, 0), adapter.prompts[0]
        (before,) = adapter.encoded([image])
        latents = [before] * LOOKS
        draws = adapter.draws(latents)
        with torch.no_grad():
            prediction = adapter.model.predict([prompt] * LOOKS, latents, draws)
            losses = prediction.token_losses(latents)
            changes = []
            for box in boxes(size, parts):
                (after,) = adapter.encoded([repainted(image, box, 1)])
                moved = (prediction.token_losses([after] * LOOKS) - losses).abs()
                adapter.require(
                    moved.numel() == LOOKS * grid[0] * grid[1],
                    "token_losses",
                    f"gives {moved.numel()} losses for {LOOKS} images of token_grid {grid}",
                    "give h * w losses an image, one image after the other",
                )
                adapter.require(
                    float(moved.max()) > 0,
                    "encode",
                    f"painting a part of the image anew ({box}) changes no loss",
                    "encode the whole image, and compare token_losses with the latents that it is given",
                )
                changes.append(moved.reshape(LOOKS, *grid).mean(dim=0).cpu())
        return changes


def _needs_encoding(adapter: AdapterSubject) -> None:
    if adapter.cannot_encode:
        pytest.skip(f"with these options the adapter cannot encode images: {adapter.cannot_encode}")


def _by_name(draws: Draws) -> dict[str, Tensor]:
    """What was drawn, each as one tensor (B, ...)."""
    return {"timesteps": draws.timestep, "drops": draws.drop, "noise": torch.stack(list(draws.noise))}
