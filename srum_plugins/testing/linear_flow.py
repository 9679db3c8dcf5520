"""A flow model of twelve numbers, for suites of what works with predictions: objectives and monitors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srum_plugins.contracts import Draws, ModelAdapter, Prediction
from srum_plugins.errors import ContractError
from srum_plugins.flow import FlowPrediction, noised, uniform_draws
from srum_plugins.records import Prompt

PATCH = 4
"""Pixels of a token's side."""


class LinearFlow(ModelAdapter):
    """The velocity of a token is linear in what is seen of it: v = G x_t + s, with G (3, 3) and s (3,).

    A token is a square of :data:`PATCH` pixels, its latent the mean colour. Nothing is saved: this is the training half
    as far as objectives and monitors use it. ``base_calls`` counts predictions of the base weights.
    """

    def __init__(self) -> None:
        self.gain = torch.nn.Parameter(0.4 * torch.eye(3) + 0.1)
        self.shift = torch.nn.Parameter(torch.tensor([0.1, -0.2, 0.3]))
        self.base_calls = 0
        self._base: tuple[Tensor, Tensor] | None = None

    def token_grid(self, width: int, height: int) -> tuple[int, int]:
        """One token a started square."""
        return -(-height // PATCH), -(-width // PATCH)

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """The mean colour of each token, in [-1, 1]."""
        pixels = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images]) / 127.5 - 1
        grid = self.token_grid(*images[0].size)
        return torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(pixels).permute(0, 3, 1, 2), grid)

    def draw(self, latents: Sequence[Tensor], generator: torch.Generator) -> Draws:
        """Even timesteps and normal noise; no condition is dropped, since none is read."""
        return uniform_draws(latents, generator)

    def predict(
        self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False
    ) -> Prediction:
        """See :meth:`ModelAdapter.predict`.

        Raises:
            ContractError: the base is asked for and was not kept; or prompts, latents and draws are not of one number.
        """
        counts = len(prompts), len(latents), len(draws.noise), len(draws.timestep), len(draws.drop)
        if len(set(counts)) > 1:
            raise ContractError(f"prompts, latents, noise, timesteps and drops must be of one number, got {counts}")
        if not base:
            return self._predict(self.gain, self.shift, latents, draws)
        self.base_calls += 1
        if self._base is None:
            raise ContractError("predictions of the base are asked for, and start_training was told base=False")
        with torch.no_grad():
            return self._predict(*self._base, latents, draws)

    def start_training(self, training: Any, *, base: bool) -> dict[str, torch.nn.Parameter]:
        """Both parameters move."""
        self._base = (self.gain.detach().clone(), self.shift.detach().clone()) if base else None
        return {"gain": self.gain, "shift": self.shift}

    def _predict(self, gain: Tensor, shift: Tensor, latents: Sequence[Tensor], draws: Draws) -> FlowPrediction:
        velocity = [torch.einsum("oc,chw->ohw", gain, seen) + shift[:, None, None] for seen in noised(latents, draws)]
        return FlowPrediction(velocity, draws.noise)
