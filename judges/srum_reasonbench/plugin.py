"""Registers the benchmark ``t2i-reasonbench``."""

from __future__ import annotations

from typing import Any

from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider
from srum_reasonbench.options import ReasonBenchOptions


@hookimpl
def srum_benchmarks() -> list[Provider]:
    """T2I-ReasonBench, from the user's copy."""
    return [
        Provider(
            name="t2i-reasonbench",
            summary="T2I-ReasonBench's prompts and questions from your copy: reasoning and quality scores",
            factory=_factory,
            options=ReasonBenchOptions,
            needs=lambda options: options.needs,
            identity=_identity,
        )
    ]


def _factory(options: ReasonBenchOptions) -> Any:
    from srum_reasonbench.benchmark import ReasonBenchmark

    return ReasonBenchmark(options)


def _identity(options: ReasonBenchOptions) -> str:
    """sha256 of the files."""
    from srum_reasonbench.data import digest

    return digest(options)
