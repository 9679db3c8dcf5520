"""Position tables and timestep features of BAGEL."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sincos_table(side: int, dim: int) -> Tensor:
    """Fixed 2-D table (side * side, dim), float32: the first half of a row encodes the column, the second the row.

    Row ``n`` of the table belongs to grid position ``(n // side, n % side)``.
    """
    quarter = dim // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    half = torch.cat([angles.sin(), angles.cos()], dim=1)
    column = half[None, :, :].expand(side, side, -1)
    row = half[:, None, :].expand(side, side, -1)
    return torch.cat([column, row], dim=-1).reshape(side * side, dim).float()


def grid_ids(height: int, width: int, side: int) -> Tensor:
    """Rows of :func:`sincos_table` for a (height, width) grid in row-major order."""
    return (torch.arange(height)[:, None] * side + torch.arange(width)).flatten()


class PositionTable(nn.Module):
    """A frozen sin-cos table, stored in checkpoints as ``pos_embed``."""

    def __init__(self, side: int, dim: int) -> None:
        super().__init__()
        self.side = side
        self.pos_embed = nn.Parameter(sincos_table(side, dim), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (..., dim) for ids (...)."""
        return self.pos_embed[ids]


class TimestepEmbedder(nn.Module):
    """Timesteps in [0, 1], not scaled, to hidden vectors: 128 cosines then 128 sines, and an MLP."""

    features = 256

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, timestep: Tensor) -> Tensor:
        """(..., dim) for timesteps (...)."""
        half = self.features // 2
        frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float32, device=timestep.device) / half)
        angles = timestep.float()[..., None] * frequencies
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        out: Tensor = self.mlp(features.to(next(self.mlp.parameters()).dtype))
        return out
