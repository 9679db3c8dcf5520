"""The optimizers of ``train.optimizer``: made from settings, and their state as plain tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from srum_plugins.config import TrainSection
from srum_plugins.training.shared_tensors import like

Parameters = Mapping[str, torch.nn.Parameter]

MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""The moments that AdamW keeps, and whether they have a sign."""
PARTS = ("codes", "scale", "qmap")
"""What a moment in eight bits is made of."""


def build(settings: TrainSection, parameters: Parameters) -> torch.optim.Optimizer:
    """``adamw`` is torch's; ``adamw8bit`` is torchao's, with moments in 8 bits. Where weights are in bfloat16 it rounds
    them at random, so that they move on average by what was meant (engine.md 3.1)."""
    betas = (settings.beta1, settings.beta2)
    values = list(parameters.values())
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(values, lr=settings.lr, betas=betas, weight_decay=settings.weight_decay)
    from torchao.optim import AdamW8bit  # heavy, and compiles its step for every shape

    optimizer: torch.optim.Optimizer = AdamW8bit(
        values, lr=settings.lr, betas=betas, weight_decay=settings.weight_decay, bf16_stochastic_round=True
    )
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups; torchao keeps it in a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def state_tensors(optimizer: torch.optim.Optimizer, parameters: Parameters) -> dict[str, Tensor]:
    """The state as plain tensors: ``slot/name``, or ``slot/name/part`` of a moment in eight bits. A parameter that
    never had a gradient has none."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for slot, value in optimizer.state[parameter].items():
            if hasattr(value, PARTS[0]):
                tensors |= {f"{slot}/{name}/{part}": getattr(value, part) for part in PARTS}
            else:
                tensors[f"{slot}/{name}"] = value
    return tensors


def restore_state(optimizer: torch.optim.Optimizer, parameters: Parameters, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`state_tensors` gave."""
    for name, parameter in parameters.items():
        if f"step/{name}" in tensors:  # the step count stays on the CPU, the moments beside their parameter
            moments = {slot: _moment(slot, name, parameter, tensors) for slot in MOMENTS}
            optimizer.state[parameter] = {"step": tensors[f"step/{name}"], **moments}


def _moment(slot: str, name: str, parameter: torch.nn.Parameter, tensors: Mapping[str, Tensor]) -> Tensor:
    key = f"{slot}/{name}"
    if key in tensors:
        return like(tensors[key], parameter)
    from torchao.optim.subclass_8bit import OptimState8bit

    parts = [tensors[f"{key}/{part}"].to(parameter.device) for part in PARTS]
    moment: Tensor = OptimState8bit(*parts, MOMENTS[slot], parameter.dtype)
    return moment
