"""What BLIP3o offers to the framework: the released models of 8B and 4B, from a folder or the hub."""

from __future__ import annotations

from typing import Any

from srum_blip3o.options import AdapterOptions, Sampling, Training
from srum_plugins.attention.contract import Attention, Heads
from srum_plugins.contracts import Capability
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_model_adapters() -> list[Provider]:
    """BLIP3o-8B, -4B and whatever has their layout. It cannot think: it draws from the prompt alone."""
    return [
        Provider(
            name="blip3o",
            summary="a released BLIP3o checkpoint",
            factory=_adapter,
            options=AdapterOptions,
            sampling=Sampling,
            training=Training,
            trained_dtype=lambda options, training: "float32" if training.lora_rank else options.dtype,
            capabilities=frozenset(Capability) - {Capability.THINK, Capability.SHARD},
            modules=("accelerate", "huggingface_hub"),
            extra="pip install 'srum-plugins[blip3o]'",
            identity=lambda options: options.identity,
            weightless=_weightless,
            cannot_encode=_cannot_encode,
            heads=_heads,
        )
    ]


def _adapter(options: AdapterOptions, device: str, attention: Attention | None = None) -> Any:
    from srum_blip3o.released import build

    return build(options, device, attention)


def _heads(options: AdapterOptions) -> tuple[Heads, ...]:
    from srum_blip3o.released import heads

    return heads(options)


def _cannot_encode(options: AdapterOptions) -> str:
    from srum_blip3o.released import cannot_encode

    return cannot_encode(options)


def _weightless(options: AdapterOptions) -> Any:
    from srum_blip3o.released import without_weights

    return without_weights(options)
