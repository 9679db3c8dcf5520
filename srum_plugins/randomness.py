"""torch's global random state, for providers that draw from it."""

from __future__ import annotations

import torch


def seed_torch(seed: int) -> None:
    """As :func:`torch.manual_seed`, which without an accelerator takes half a millisecond and keeps a stack trace of
    every call, for a device that never comes."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
