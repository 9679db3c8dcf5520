"""Registers the benchmark ``t2i-compbench``."""

from __future__ import annotations

from typing import Any

from srum_compbench.options import CompBenchOptions
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_benchmarks() -> list[Provider]:
    """T2I-CompBench, judged."""
    return [
        Provider(
            name="t2i-compbench",
            summary="T2I-CompBench's prompts from your copy, judged from 0 to 100; not the official metric",
            factory=_factory,
            options=CompBenchOptions,
            needs=lambda options: options.needs,
            identity=_identity,
        )
    ]


def _factory(options: CompBenchOptions) -> Any:
    from srum_compbench.data import COMPOSITES, read_prompts
    from srum_compbench.hundred import HundredBenchmark

    return HundredBenchmark(read_prompts(options), options, COMPOSITES)


def _identity(options: CompBenchOptions) -> str:
    """sha256 of the prompts' files."""
    from srum_compbench.data import digest

    return digest(options.path)
