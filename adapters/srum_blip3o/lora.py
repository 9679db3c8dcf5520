"""Low-rank adapters on the DiT's linear layers, by peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from srum_blip3o.prior import Prior

TARGETS = r"dit\.layers\.\d+\.(attn[12]\.to_[qkv]|attn2\.to_out\.0|feed_forward\.linear_[123])"
"""The projections of both attentions, which share one for their output, and the feed-forward."""


def inject(prior: Prior, rank: int, alpha: float) -> dict[str, nn.Parameter]:
    """Put adapters of this rank, scaled by alpha / rank, beside the layers of a frozen prior; they begin as nothing.
    Returns their parameters by name, in float32 whatever the prior's dtype."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS), prior)
    parameters = {name: parameter for name, parameter in prior.named_parameters() if ".lora_" in name}
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
    return parameters


@contextmanager
def without(prior: Prior) -> Iterator[None]:
    """The prior without its adapters, which is what they were put on."""
    layers = list(_layers(prior).values())
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def merge(prior: Prior) -> None:
    """Add the adapters to the weights beside them and take them away: the names are those of the prior again. In
    bfloat16 what they add is rounded to what its weights can hold."""
    for name, layer in _layers(prior).items():
        layer.merge()
        prior.set_submodule(name, layer.get_base_layer())


def _layers(prior: Prior) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in prior.named_modules() if isinstance(module, LoraLayer)}
