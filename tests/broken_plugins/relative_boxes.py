"""Gives boxes as shares of the image's sides."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider
from srum_plugins.records import Box, Region


class RelativeBoxes(ToyAdapter):
    def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region]]:
        return [[Region(Box(0.1, 0.2, 0.5, 0.9), phrase) for phrase in wanted] for wanted in phrases]


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="relative-boxes", factory=RelativeBoxes)]
