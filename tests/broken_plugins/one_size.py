"""Can predict for images of one size alone."""

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


class OneSize(ToyAdapter):
    def predict(self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False) -> Any:
        torch.stack(list(latents))
        return super().predict(prompts, latents, draws, base=base)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="one-size", factory=OneSize)]
