"""A SAM from a file of weights, and its mask generator."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from srum_plugins.errors import CheckpointError
from srum_plugins.weights import load_weights, refuse_misfits
from srum_sam.options import Model
from srum_sam.tiny import tiny_sam


def build(model: Model) -> Any:
    """A ``Sam`` of this size with random weights, in float32 on the CPU."""
    from segment_anything import sam_model_registry

    return tiny_sam() if model == "tiny" else sam_model_registry[model]()


def load(model: Model, file: Path, device: str) -> Any:
    """The ``Sam`` of this size with the file's weights, in float32, for inference.

    Raises:
        CheckpointError: the file cannot be read, holds anything but tensors, or is that of another model.
    """
    sam = build(model)
    if file.suffix == ".safetensors":
        load_weights(sam, [file], torch.device("cpu"))
    else:
        stored = _unpickled(file)
        expected = {name: tuple(tensor.shape) for name, tensor in sam.state_dict().items()}
        refuse_misfits({name: tuple(tensor.shape) for name, tensor in stored.items()}, expected, file)
        sam.load_state_dict(stored)
    return sam.eval().requires_grad_(False).to(device)


def mask_generator(sam: Any, settings: Mapping[str, Any]) -> Any:
    """segment-anything's ``SamAutomaticMaskGenerator``, which by itself fails where it finds nothing in any of several
    crops."""
    from segment_anything import SamAutomaticMaskGenerator

    class MaskGenerator(SamAutomaticMaskGenerator):  # type: ignore[misc]  # segment-anything has no types
        def _process_crop(self, *arguments: Any) -> Any:
            data = super()._process_crop(*arguments)
            data["crop_boxes"] = data["crop_boxes"].reshape(-1, 4)
            return data

    return MaskGenerator(sam, **settings)


def _unpickled(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by :func:`torch.save`, read without running any code that is in it."""
    try:
        stored: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot read weights from {file}: {str(error).splitlines()[0]}") from error
    if not isinstance(stored, dict) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        raise CheckpointError(f"{file} holds something else than a SAM's tensors by name, such as a training state")
    return stored
