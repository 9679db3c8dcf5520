"""A small BAGEL on disk: ``bagel.json``, ``ema.safetensors`` and ``ae.safetensors``.

The tensor names are those of the released checkpoints (:mod:`srum_bagel.release`).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from srum_bagel.autoencoder import KLAutoencoder, PixelAutoencoder, build_autoencoder
from srum_bagel.config import BagelConfig
from srum_bagel.model import Bagel
from srum_plugins.attention.contract import Attention
from srum_plugins.checkpoint_config import read_json
from srum_plugins.weights import load_weights, save_weights

CONFIG, WEIGHTS, AUTOENCODER = "bagel.json", "ema.safetensors", "ae.safetensors"


def save_model(model: Bagel, autoencoder: KLAutoencoder | PixelAutoencoder, folder: Path) -> None:
    """Write a folder that :func:`load_model` reads; each file is written aside and renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model.state_dict(), folder / WEIGHTS)
    if isinstance(autoencoder, KLAutoencoder):
        save_weights(autoencoder.model.state_dict(), folder / AUTOENCODER)
    config = folder / f"{CONFIG}.tmp"
    config.write_text(json.dumps(model.config.to_json(), indent=1) + "\n")
    config.replace(folder / CONFIG)


def load_model(
    folder: Path, device: torch.device, attention: Attention | None = None
) -> tuple[Bagel, KLAutoencoder | PixelAutoencoder]:
    """The model, with a kernel of attention if it is to use a certain one, and its autoencoder in evaluation mode,
    float32.

    Raises:
        CheckpointError: a file is missing or unreadable, or its tensors do not fit the config.
    """
    config = read_config(folder)
    model = Bagel(config, attention)
    load_weights(model, [folder / WEIGHTS], device)
    autoencoder = build_autoencoder(config.vae)
    if isinstance(autoencoder, KLAutoencoder):
        load_weights(autoencoder.model, [folder / AUTOENCODER], device)
    return model.to(device).eval(), autoencoder.to(device).eval()


def read_config(folder: Path) -> BagelConfig:
    """The config of a checkpoint folder."""
    return BagelConfig.parse(read_json(folder / CONFIG, "it is no checkpoint written by srum or srum-shapes"))
