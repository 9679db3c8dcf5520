"""The prior's weights in released files, which hold the other parts of BLIP3o too (blip3o.md 1.4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from srum_blip3o.prior import Prior
from srum_plugins.weights import load_weights

QUERIES = "model.latent_queries"
DIT = "model.dit.model."
PARTS = ("model.dit.", QUERIES)
"""How the released names of the prior's weights begin."""
CAPTION = "caption_projection."
UNUSED = f"{DIT}pad_token"
"""What diffusers writes and nothing reads."""


def released_name(name: str) -> str:
    """The released name of one of the prior's weights."""
    if name == "latent_queries":
        return QUERIES
    return DIT + (name if name.startswith(CAPTION) else name.removeprefix("dit."))


def own_name(released: str) -> str | None:
    """The inverse of :func:`released_name`; None if the weight belongs to another part. A name that begins like the
    prior's and is none of them stays as it is, for a strict reader to refuse."""
    if not released.startswith(PARTS) or released == UNUSED:
        return None
    if released == QUERIES:
        return "latent_queries"
    if not released.startswith(DIT):
        return released
    name = released.removeprefix(DIT)
    return name if name.startswith(CAPTION) else f"dit.{name}"


def load_prior(prior: Prior, files: Sequence[Path], device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Load exactly the prior's weights from files that may hold other parts, one tensor at a time; see
    :func:`srum_plugins.weights.load_weights`.

    Raises:
        CheckpointError: a file is unreadable, or one of the prior's weights is missing, unknown or of another shape;
            then nothing was loaded.
    """
    load_weights(prior, files, device, dtype, rename=own_name)
