"""Registers the grounders ``whole-image`` and ``grid``."""

from __future__ import annotations

from typing import Any

from srum_fixed.options import GridOptions
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import NoOptions, Provider


@hookimpl
def srum_grounders() -> list[Provider]:
    """Regions that depend on the image's size alone."""
    return [
        Provider(
            name="whole-image",
            summary="one region, the whole image; asks no model",
            factory=_whole_image,
        ),
        Provider(
            name="grid",
            summary="boxes of one size that cover the image; asks no model",
            factory=_grid,
            options=GridOptions,
        ),
    ]


def _whole_image(options: NoOptions) -> Any:
    from srum_fixed.whole_image import WholeImageGrounder

    return WholeImageGrounder()


def _grid(options: GridOptions) -> Any:
    from srum_fixed.grid import GridGrounder

    return GridGrounder(options)
