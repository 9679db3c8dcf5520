"""Gives boxes as its model says them, in thousandths."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from toy_backend import ToyAdapter

from broken_plugins import TOY
from srum_plugins import hookimpl
from srum_plugins.providers import Provider
from srum_plugins.records import Box, Failure, Region


class BoxesOutside(ToyAdapter):
    def locate(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Region | Failure]]:
        box = Box(0, 0, 1000, 1000)  # of a frame of 1000 x 1000
        return [[Region(box, phrase) for phrase in wanted] for wanted in phrases]


@hookimpl
def srum_model_adapters() -> list[Provider]:
    return [replace(TOY, name="boxes-outside", factory=BoxesOutside)]
