"""Encodes images to a list."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider


class ListedLatents(ToyAdapter):
    def encode(self, images: Sequence[Image.Image]) -> Any:
        return list(super().encode(images))


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="listed-latents", factory=ListedLatents)]
