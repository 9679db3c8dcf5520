"""Registers the model adapter ``example-name``."""

from __future__ import annotations

from dataclasses import dataclass

from srum_plugins import hookimpl
from srum_plugins.contracts import Capability, ModelAdapter
from srum_plugins.providers import Provider


@dataclass(frozen=True)
class Options:
    """``skill`` is how well the model paints before training: the logit of the colour that is asked for."""

    skill: float = 3.0


@dataclass(frozen=True)
class Sampling:
    """``steps`` are those from noise to an image."""

    steps: int = 8

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


def make(options: Options, device: str) -> ModelAdapter:
    """The model on a device. Heavy imports belong here: plugins are listed without them."""
    from srum_example_name.adapter import ExampleNameAdapter

    return ExampleNameAdapter(options, device)


@hookimpl
def srum_model_adapters() -> list[Provider]:
    """What the model is called, can do and can be told."""
    able = {Capability.GENERATE, Capability.ANSWER, Capability.CHOICE, Capability.LOCATE, Capability.TRAIN}
    return [
        Provider(
            name="example-name",
            summary="draws a coloured patch for each thing that a prompt names",
            factory=make,
            options=Options,
            sampling=Sampling,
            capabilities=frozenset(able),
        )
    ]
