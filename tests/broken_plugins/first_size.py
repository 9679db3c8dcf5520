"""Draws all images of a batch in the size of its first."""

from collections.abc import Sequence
from dataclasses import replace

from toy_backend import Sampling, ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Generated, GenerationRequest
from srum_plugins.providers import Provider


class FirstSize(ToyAdapter):
    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Generated]:
        return super().generate(
            [replace(one, width=requests[0].width, height=requests[0].height) for one in requests], sampling
        )


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="first-size", factory=FirstSize)]
