"""Draws the same image for every prompt."""

from collections.abc import Sequence
from dataclasses import replace

from toy_backend import Sampling, ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Generated, GenerationRequest
from srum_plugins.providers import Provider
from srum_plugins.records import Prompt


class DeafDrawing(ToyAdapter):
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        return super().generate([replace(one, prompt=Prompt("any", "a red tile")) for one in requests], sampling)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="deaf-drawing", factory=DeafDrawing)]
