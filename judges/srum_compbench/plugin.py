"""Registers ``t2i-compbench``, the benchmark and the set of training prompts."""

from __future__ import annotations

from typing import Any

from srum_compbench.options import CompBenchOptions, PromptOptions
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


@hookimpl
def srum_prompt_sets() -> list[Provider]:
    """T2I-CompBench's training prompts."""
    return [
        Provider(
            name="t2i-compbench",
            summary="T2I-CompBench's prompts from your copy, such as SRUM's train_comp.json",
            factory=_prompt_set,
            options=PromptOptions,
        )
    ]


def _prompt_set(options: PromptOptions) -> Any:
    from srum_compbench.data import read_prompts
    from srum_compbench.prompt_set import GivenPrompts

    return GivenPrompts(read_prompts(options))


def _factory(options: CompBenchOptions) -> Any:
    from srum_compbench.data import COMPOSITES, read_prompts
    from srum_compbench.hundred import HundredBenchmark

    return HundredBenchmark(read_prompts(options), options, COMPOSITES)


def _identity(options: CompBenchOptions) -> str:
    """sha256 of the prompts' files."""
    from srum_compbench.data import digest

    return digest(options.path)
