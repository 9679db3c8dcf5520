"""A BAGEL with random weights, small enough for any test, that speaks the drawn world's words."""

from __future__ import annotations

import dataclasses

import torch
from srum_bagel.adapter import BagelAdapter
from srum_bagel.autoencoder import build_autoencoder
from srum_bagel.config import AutoencoderConfig, BagelConfig
from srum_bagel.model import Bagel
from srum_shapes.adapter import ShapesDialect
from srum_shapes.architecture import bagel_config
from srum_shapes.world import SIDE


def tiny_config() -> BagelConfig:
    """The shipped architecture with two layers of width 32, on pixels instead of a trained latent space."""
    config = bagel_config()
    return dataclasses.replace(
        config,
        llm=dataclasses.replace(
            config.llm, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
        ),
        vit=dataclasses.replace(config.vit, hidden_size=32, intermediate_size=48, num_hidden_layers=1),
        vae=AutoencoderConfig(),
        latent_patch_size=4,
    )


def tiny_adapter(seed: int = 0) -> BagelAdapter:
    """A fresh adapter; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = Bagel(tiny_config()).eval()
    return BagelAdapter(model, build_autoencoder(model.config.vae), ShapesDialect(), (SIDE, SIDE))
