"""Draws images where Generated ones are asked for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.contracts import GenerationRequest
from srum_plugins.providers import Provider


class BareImages(ToyAdapter):
    def generate(self, requests: Sequence[GenerationRequest], sampling: Any) -> Any:
        return [one.image for one in super().generate(requests, sampling)]


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="bare-images", factory=BareImages)]
