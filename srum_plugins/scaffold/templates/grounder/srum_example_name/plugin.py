"""Registers the grounder ``example-name``."""

from __future__ import annotations

from dataclasses import dataclass

from srum_plugins import hookimpl
from srum_plugins.contracts import Grounder
from srum_plugins.providers import Provider


@dataclass(frozen=True)
class Options:
    """``contrast`` is how far a channel of a pixel must lie from the image's border to stand out, in levels of 255."""

    contrast: int = 48

    def __post_init__(self) -> None:
        if not 1 <= self.contrast <= 255:
            raise ValueError(f"contrast must lie in [1, 255], got {self.contrast}")


def make(options: Options) -> Grounder:
    """The grounder. Heavy imports belong here: plugins are listed without them."""
    from srum_example_name.grounder import ExampleNameGrounder

    return ExampleNameGrounder(options)


@hookimpl
def srum_grounders() -> list[Provider]:
    """What the grounder is called and can be told."""
    return [
        Provider(
            name="example-name",
            summary="one box around all that stands out from the border of the image",
            factory=make,
            options=Options,
        )
    ]
