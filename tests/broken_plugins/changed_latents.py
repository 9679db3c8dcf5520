"""Noises the latents in place."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Draws
from srum_plugins.flow import noised
from srum_plugins.providers import Provider
from srum_plugins.records import Prompt


class ChangedLatents(ToyAdapter):
    def predict(self, prompts: Sequence[Prompt], latents: Sequence[Tensor], draws: Draws, *, base: bool = False) -> Any:
        found = super().predict(prompts, latents, draws, base=base)
        for clean, seen in zip(latents, noised(latents, draws), strict=True):
            clean.copy_(seen)
        return found


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="changed-latents", factory=ChangedLatents)]
