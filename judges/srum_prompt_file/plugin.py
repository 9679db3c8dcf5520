"""Registers ``file``, the benchmark and the set of training prompts."""

from __future__ import annotations

from typing import Any

from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider
from srum_prompt_file.options import PathOptions, PromptFileOptions


@hookimpl
def srum_benchmarks() -> list[Provider]:
    """Somebody's own prompts."""
    return [
        Provider(
            name="file",
            summary="your own prompts from a file, judged from 0 to 100",
            factory=_factory,
            options=PromptFileOptions,
            needs=lambda options: options.needs,
            identity=_identity,
        )
    ]


@hookimpl
def srum_prompt_sets() -> list[Provider]:
    """Somebody's own prompts to train on."""
    return [Provider(name="file", summary="your own prompts from a file", factory=_prompt_set, options=PathOptions)]


def _prompt_set(options: PathOptions) -> Any:
    from srum_compbench.prompt_set import GivenPrompts

    from srum_prompt_file.lines import read_prompts

    return GivenPrompts(read_prompts(options.path))


def _factory(options: PromptFileOptions) -> Any:
    from srum_compbench.hundred import HundredBenchmark

    from srum_prompt_file.lines import read_prompts

    return HundredBenchmark(read_prompts(options.path), options)


def _identity(options: PromptFileOptions) -> str:
    """sha256 of the file."""
    from srum_prompt_file.lines import digest

    return digest(options.path)
