"""Registers the aggregator ``example-name``."""

from __future__ import annotations

from dataclasses import dataclass

from srum_plugins import hookimpl
from srum_plugins.contracts import Aggregator
from srum_plugins.providers import Provider


@dataclass(frozen=True)
class Options:
    """``background``, in [-1, 1], is the local score where no region is."""

    background: float = 0.0

    def __post_init__(self) -> None:
        if not -1.0 <= self.background <= 1.0:
            raise ValueError(f"background must lie in [-1, 1], got {self.background}")


def make(options: Options) -> Aggregator:
    """The aggregator. Heavy imports belong here: plugins are listed without them."""
    from srum_example_name.aggregator import ExampleNameAggregator

    return ExampleNameAggregator(options)


@hookimpl
def srum_reward_aggregators() -> list[Provider]:
    """What the aggregator is called and can be told."""
    return [
        Provider(
            name="example-name",
            summary="the map of the paper, candidates ranked by their weakest region",
            factory=make,
            options=Options,
        )
    ]
