"""Draws from torch's global random numbers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Generated, GenerationRequest
from srum_plugins.providers import Provider


class Unseeded(ToyAdapter):
    def generate(self, requests: Sequence[GenerationRequest], sampling: Any) -> list[Generated]:
        return super().generate([replace(one, seed=int(torch.randint(1000, ()))) for one in requests], sampling)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="unseeded", factory=Unseeded)]
