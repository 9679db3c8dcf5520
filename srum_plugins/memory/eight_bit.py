"""A stand-in for torchao's 8-bit AdamW, whose step is compiled and needs memory and values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from srum_plugins.training.optimizers import MOMENTS

BLOCK, LEAST, VALUES = 256, 4096, 256
"""Numbers that share a scale, the least numbers of a tensor that is kept in 8 bits, and what a code can mean: facts of
torchao, which keeps smaller tensors, and those that do not divide into blocks, in their own dtype."""


class EightBit(torch.optim.Optimizer):
    """Holds what torchao's ``AdamW8bit`` holds from its first step on, and moves nothing."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # torch's has overloads
        """Make the state where there is none yet."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter not in self.state:
                    self.state[parameter] = {slot: _moment(parameter) for slot in MOMENTS}


def _moment(parameter: Tensor) -> tuple[Tensor, ...]:
    count, device = parameter.numel(), parameter.device
    if count < LEAST or count % BLOCK:
        return (torch.empty_like(parameter),)
    return (
        torch.empty(count, dtype=torch.uint8, device=device),
        torch.empty(count // BLOCK, device=device),
        torch.empty(VALUES, device=device),
    )
