"""Takes an image's width for its height."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import Generated, GenerationRequest
from srum_plugins.providers import Provider


class TurnedImage(ToyAdapter):
    def generate(self, requests: Sequence[GenerationRequest], sampling: Any) -> list[Generated]:
        return super().generate([replace(one, width=one.height, height=one.width) for one in requests], sampling)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="turned-image", factory=TurnedImage)]
