"""Low-rank adapters on linear layers, by peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def inject(model: nn.Module, targets: str, rank: int, alpha: float) -> dict[str, nn.Parameter]:
    """Put adapters of this rank, scaled by alpha / rank, beside the layers of a frozen model whose whole names match
    the expression ``targets``; they begin as nothing. Returns their parameters by name, in float32 whatever the model's
    dtype."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), model)
    parameters = {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
    return parameters


@contextmanager
def without(model: nn.Module) -> Iterator[None]:
    """The model without its adapters, which is what they were put on."""
    layers = list(_layers(model).values())
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add the adapters to the weights beside them and take them away: the names are those of the model again. In
    bfloat16 what they add is rounded to what its weights can hold."""
    for name, layer in _layers(model).items():
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())


def _layers(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
