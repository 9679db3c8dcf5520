"""Draws with weights that no training moves."""

from collections.abc import Sequence
from dataclasses import replace

from toy_backend import Sampling, ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Generated, GenerationRequest
from srum_plugins.providers import Provider


class DrawnByBase(ToyAdapter):
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        trained, self.model = self.model, self.base
        try:
            return super().generate(requests, sampling)
        finally:
            self.model = trained


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="drawn-by-base", factory=DrawnByBase)]
