"""What the drawn world offers to the framework."""

from __future__ import annotations

import hashlib
from typing import Any

from srum_plugins.attention.contract import Attention, Heads
from srum_plugins.contracts import Capability
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider
from srum_shapes.options import AdapterOptions, BenchmarkOptions, PromptSetOptions, SamplingOptions, TrainingOptions


@hookimpl
def srum_model_adapters() -> list[Provider]:
    """The shipped small BAGEL."""
    return [
        Provider(
            name="shapes",
            summary="a BAGEL of laptop size that draws and reads scenes of coloured shapes",
            factory=_adapter,
            options=AdapterOptions,
            sampling=SamplingOptions,
            training=TrainingOptions,
            capabilities=frozenset(set(Capability) - {Capability.THINK, Capability.LOCATE_ALL}),
            identity=_weights,
            weightless=_weightless,
            heads=_heads,
        )
    ]


@hookimpl
def srum_prompt_sets() -> list[Provider]:
    """In-domain prompts for post-training and validation."""
    return [
        Provider(
            name="shapes",
            summary="captions of drawn scenes, without the held-out colour-shape pairs",
            factory=_prompt_set,
            options=PromptSetOptions,
        )
    ]


@hookimpl
def srum_benchmarks() -> list[Provider]:
    """The oracle's benchmark."""
    return [
        Provider(
            name="shapes",
            summary="drawn scenes read by an oracle, in-domain and out-of-domain, and questions on fresh scenes",
            factory=_benchmark,
            options=BenchmarkOptions,
            needs=_benchmark_needs,
        )
    ]


def _adapter(options: AdapterOptions, device: str, attention: Attention | None = None) -> Any:
    from srum_shapes.adapter import build

    return build(options, device, attention)


def _heads(options: AdapterOptions) -> tuple[Heads, ...]:
    from srum_shapes.adapter import heads

    return (heads(options),)


def _weightless(options: AdapterOptions) -> Any:
    from srum_shapes.adapter import without_weights

    return without_weights(options)


def _weights(options: AdapterOptions) -> str:
    """sha256 of the checkpoint's weights and config, or a word that says that there are none yet."""
    files = sorted([*options.folder.glob("*.safetensors"), *options.folder.glob("*.json")])
    if not files:
        return "no weights"
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _prompt_set(options: PromptSetOptions) -> Any:
    from srum_shapes.prompt_set import ShapesPromptSet

    return ShapesPromptSet(options)


def _benchmark(options: BenchmarkOptions) -> Any:
    from srum_shapes.benchmark import ShapesBenchmark

    return ShapesBenchmark(options)


def _benchmark_needs(options: BenchmarkOptions) -> frozenset[Capability]:
    if options.questions == 0:
        return frozenset()
    return frozenset({Capability.ANSWER, Capability.CHOICE, Capability.LOCATE})
