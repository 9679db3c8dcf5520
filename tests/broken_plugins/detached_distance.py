"""Gives distances that hold nothing back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Draws, Prediction
from srum_plugins.flow import FlowPrediction
from srum_plugins.providers import Provider
from srum_plugins.records import Prompt


class Detached(FlowPrediction):
    def token_distance(self, other: Prediction) -> Tensor:
        return super().token_distance(other).detach()


class DetachedDistance(ToyAdapter):
    def predict(self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False) -> Any:
        return Detached(super().predict(prompts, latents, draws, base=base).velocity, draws.noise)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="detached-distance", factory=DetachedDistance)]
