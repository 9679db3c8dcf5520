"""A small BAGEL on disk: ``bagel.json``, ``ema.safetensors`` and ``ae.safetensors``.

The tensor names are those of the released checkpoints. Loading is strict: anything missing, unexpected or of another
shape is one error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from srum_bagel.autoencoder import KLAutoencoder, PixelAutoencoder, build_autoencoder
from srum_bagel.config import BagelConfig
from srum_bagel.model import Bagel
from srum_plugins.errors import CheckpointError

CONFIG, WEIGHTS, AUTOENCODER = "bagel.json", "ema.safetensors", "ae.safetensors"


def save_model(model: Bagel, autoencoder: KLAutoencoder | PixelAutoencoder, folder: Path) -> None:
    """Write a folder that :func:`load_model` reads; each file is written aside and renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(model.state_dict(), folder / WEIGHTS)
    if isinstance(autoencoder, KLAutoencoder):
        _save(autoencoder.model.state_dict(), folder / AUTOENCODER)
    config = folder / f"{CONFIG}.tmp"
    config.write_text(json.dumps(model.config.to_json(), indent=1) + "\n")
    config.replace(folder / CONFIG)


def load_model(folder: Path, device: torch.device) -> tuple[Bagel, KLAutoencoder | PixelAutoencoder]:
    """The model and its autoencoder in evaluation mode, float32.

    Raises:
        CheckpointError: a file is missing or unreadable, or its tensors do not fit the config.
    """
    config = read_config(folder)
    model = Bagel(config)
    load_strictly(model, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    autoencoder = build_autoencoder(config.vae)
    if isinstance(autoencoder, KLAutoencoder):
        load_strictly(autoencoder.model, read_tensors(folder / AUTOENCODER), folder / AUTOENCODER)
    return model.to(device).eval(), autoencoder.to(device).eval()


def read_config(folder: Path) -> BagelConfig:
    """The config of a checkpoint folder."""
    file = folder / CONFIG
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG}: it is no checkpoint written by srum or srum-shapes")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # also for bytes that are no text
        raise CheckpointError(f"{file} is damaged: {error}") from error
    return BagelConfig.parse(data)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read weights from {file}: {error}") from error


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load tensors into a module of exactly these names and shapes."""
    expected = module.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in expected]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:10])
        raise CheckpointError(f"{source} does not fit its config ({len(problems)} problems): {shown}")
    module.load_state_dict(dict(tensors))


def _save(tensors: Mapping[str, Tensor], file: Path) -> None:
    aside = file.with_name(file.name + ".tmp")
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, aside)
    aside.replace(file)
