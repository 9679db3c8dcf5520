"""Encodes images to 16 bits."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from torch import Tensor
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


class HalfLatents(ToyAdapter):
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        return super().encode(images).bfloat16()


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="half-latents", factory=HalfLatents)]
