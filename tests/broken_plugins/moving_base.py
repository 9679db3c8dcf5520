"""Keeps no copy of the weights that training found."""

from dataclasses import replace
from typing import Any

import torch
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


class MovingBase(ToyAdapter):
    def start_training(self, training: Any, *, base: bool) -> dict[str, torch.nn.Parameter]:
        self.base = self.model
        return super().start_training(training, base=base)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="moving-base", factory=MovingBase)]
