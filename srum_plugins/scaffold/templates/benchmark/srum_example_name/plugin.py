"""Registers the benchmark ``example-name``."""

from __future__ import annotations

from dataclasses import dataclass

from srum_plugins import hookimpl
from srum_plugins.contracts import Benchmark
from srum_plugins.providers import Provider


@dataclass(frozen=True)
class Options:
    """``share`` is how much of an image must have the colour that was asked for, in (0, 1]."""

    share: float = 0.02

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")


def make(options: Options) -> Benchmark:
    """The benchmark. Heavy imports belong here: plugins are listed without them."""
    from srum_example_name.benchmark import ExampleNameBenchmark

    return ExampleNameBenchmark(options)


@hookimpl
def srum_benchmarks() -> list[Provider]:
    """What the benchmark is called and can be told."""
    return [
        Provider(
            name="example-name",
            summary="is there enough of the colour that was asked for",
            factory=make,
            options=Options,
        )
    ]
