"""Trains the half that judges read, too."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Draws
from srum_plugins.providers import Provider
from srum_plugins.records import Prompt


class UnfrozenUnderstanding(ToyAdapter):
    def start_training(self, training: Any, *, base: bool) -> dict[str, torch.nn.Parameter]:
        return dict(self.model.named_parameters())

    def predict(self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False) -> Any:
        found = super().predict(prompts, latents, draws, base=base)
        return replace(found, velocity=[one + self.model.probe.mean() for one in found.velocity])


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="unfrozen-understanding", factory=UnfrozenUnderstanding)]
