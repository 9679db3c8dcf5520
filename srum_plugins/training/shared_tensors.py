"""Tensors of which each process holds a part (torch's DTensor), and whole ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def full(tensor: Tensor) -> Tensor:
    """A tensor as one that this process holds all of; all processes must ask together."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be shared out: of that the own part."""
    tensor.copy_(like(value, tensor))


def like(value: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor on the device of another, and shared out as that is."""
    if not hasattr(tensor, "device_mesh"):
        return value.to(tensor.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(tensor, DTensor)
    own = value.to(tensor.to_local().device)
    return distribute_tensor(own, tensor.device_mesh, tensor.placements, src_data_rank=None)
