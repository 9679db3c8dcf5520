"""Sums the distance of a token over its channels."""

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


class Summed(FlowPrediction):
    def token_distance(self, other: Prediction) -> Tensor:
        return super().token_distance(other) * len(self.noise[0])


class SummedDistance(ToyAdapter):
    def predict(self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False) -> Any:
        return Summed(super().predict(prompts, latents, draws, base=base).velocity, draws.noise)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="summed-distance", factory=SummedDistance)]
