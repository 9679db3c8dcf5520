"""Draws a new layer at every load, from whatever random numbers there are."""

from dataclasses import replace

import torch
from toy_backend import AdapterOptions, ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


class NewWeights(ToyAdapter):
    def __init__(self, options: AdapterOptions, device: str) -> None:
        super().__init__(options, device)
        torch.nn.init.normal_(self.model.palette)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="new-weights", factory=NewWeights)]
