"""The flow between EVA-CLIP features and noise: what the prior learns from, and how it is sampled (blip3o.md 3, 4.2).

Everything is float32 and free of state. A scheduler shared by training and sampling loses its training table at the
first sample, and in the reference sigmas are rounded to the dtype of the latents (blip3o.md 7.2, 14 and 16).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from srum_blip3o.prior import TIMESTEPS

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Noise minus data (B, C, g, g), float32, from noisy data, times (B,) of 0 to 1000 and conditions (B, Q, H)."""


def training_sigma(uniform: Tensor) -> Tensor:
    """Noise levels (B,), float32, from numbers (B,) in [0, 1): one of 1, 0.999, ..., 0.001 each."""
    return (TIMESTEPS - (TIMESTEPS * uniform.float()).floor()) / TIMESTEPS


def noised(data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """(1 - sigma) data + sigma noise, (B, C, g, g) and float32, at noise levels (B,)."""
    level = sigma.float()[:, None, None, None]
    return (1 - level) * data + level * noise


def token_losses(velocity: Tensor, data: Tensor, noise: Tensor) -> Tensor:
    """The mean over channels of (v - (noise - data))^2 per token, (B, g, g) and float32, from three (B, C, g, g). The
    mean of all is the loss that the release was trained with."""
    return (velocity.float() - (noise.float() - data.float())).square().mean(dim=1)


def schedule(steps: int) -> list[float]:
    """Noise levels that fall from 1 in equal steps, with a last 0: ``steps`` + 1 of them."""
    return [*np.linspace(1, 1 / steps, steps).tolist(), 0.0]


def told(sigma: float) -> int:
    """The time that the DiT is told at a noise level while sampling: whole, as in the reference, which cuts what
    float32 makes of it."""
    return int(np.float32(sigma) * np.float32(TIMESTEPS))


@torch.no_grad()
def sample(
    prior: Velocity,
    condition: Tensor,
    noise: Tensor,
    steps: int = 30,
    guidance: float = 3.0,
) -> Tensor:
    """Features (B, C, g, g), float32, from noise of that shape, by Euler steps of the guided velocity
    u + guidance (c - u).

    The condition (B, Q, H) is replaced by zeros for u, and both are computed in one batch. Guidance 1 asks for c alone.
    """
    guided = guidance != 1
    both = torch.cat([torch.zeros_like(condition), condition]) if guided else condition
    x = noise.float()
    for now, after in pairwise(schedule(steps)):
        time = torch.full((len(both),), told(now), dtype=torch.float32, device=x.device)
        velocity = prior(x.repeat(2, 1, 1, 1) if guided else x, time, both)
        if guided:
            without, with_it = velocity.chunk(2)
            velocity = without + guidance * (with_it - without)
        x = x + (after - now) * velocity
    return x
