"""Trains the velocity from the noise to the image."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Draws
from srum_plugins.flow import FlowPrediction
from srum_plugins.providers import Provider
from srum_plugins.records import Prompt


class Backwards(FlowPrediction):
    def token_losses(self, latents: Sequence[Tensor]) -> Tensor:
        turned = FlowPrediction(self.velocity, [-noise for noise in self.noise])
        return turned.token_losses([-clean for clean in latents])


class WrongSign(ToyAdapter):
    def predict(self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False) -> Any:
        return Backwards(super().predict(prompts, latents, draws, base=base).velocity, draws.noise)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="wrong-sign", factory=WrongSign)]
