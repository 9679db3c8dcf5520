"""Leaves a network to be trained that it does not return."""

from dataclasses import replace

import torch
from toy_backend import AdapterOptions, ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


class HiddenNetwork(ToyAdapter):
    def __init__(self, options: AdapterOptions, device: str) -> None:
        super().__init__(options, device)
        self.networks = {"vision": torch.nn.Linear(2, 2)}


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="hidden-network", factory=HiddenNetwork)]
