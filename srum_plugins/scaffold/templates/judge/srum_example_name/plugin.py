"""Registers the judge ``example-name``."""

from __future__ import annotations

from dataclasses import dataclass

from srum_plugins import hookimpl
from srum_plugins.contracts import Capability, Judge
from srum_plugins.providers import Provider


@dataclass(frozen=True)
class Options:
    """``template`` is the question about an image; ``{text}`` becomes the prompt. It is answered by yes or no."""

    template: str = "Is there {text}?"

    def __post_init__(self) -> None:
        if "{text}" not in self.template:
            raise ValueError(f"template must contain {{text}}, got {self.template!r}")


def make(options: Options) -> Judge:
    """The judge. Heavy imports belong here: plugins are listed without them."""
    from srum_example_name.judge import ExampleNameJudge

    return ExampleNameJudge(options)


@hookimpl
def srum_judges() -> list[Provider]:
    """What the judge is called, can be told, and needs of the model."""
    return [
        Provider(
            name="example-name",
            summary="asks the model whether its image shows the prompt, and whether each region shows its phrase",
            factory=make,
            options=Options,
            needs=lambda options: frozenset({Capability.CHOICE}),
        )
    ]
