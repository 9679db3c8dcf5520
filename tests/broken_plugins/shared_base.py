"""Predicts the base with the weights in training."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Draws
from srum_plugins.providers import Provider
from srum_plugins.records import Prompt


class SharedBase(ToyAdapter):
    def predict(self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False) -> Any:
        return super().predict(prompts, latents, draws)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="shared-base", factory=SharedBase)]
