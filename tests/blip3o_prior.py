"""A prior with random weights, small enough for any test."""

from __future__ import annotations

import torch
from srum_blip3o.prior import Prior, PriorConfig


def tiny_prior(condition: int = 24, channels: int = 16, seed: int = 0) -> Prior:
    """Two layers on the released grid. The same seed gives the same weights, and none is left at zero or one: a fresh
    Lumina does not listen to its condition, because the gates of its cross attention are zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = Prior(PriorConfig(condition, channels, layers=2, heads=2, multiple_of=8)).eval()
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
    return prior
