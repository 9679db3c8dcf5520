"""What BAGEL offers to the framework: the released model, from a folder or the hub."""

from __future__ import annotations

from typing import Any

from srum_bagel.options import PRESETS, AdapterOptions, Thinking, Training
from srum_plugins.attention.contract import Attention, Heads
from srum_plugins.contracts import Capability
from srum_plugins.hookspecs import hookimpl
from srum_plugins.hub import folder_identity
from srum_plugins.providers import Provider


@hookimpl
def srum_model_adapters() -> list[Provider]:
    """BAGEL-7B and whatever has its layout."""
    return [
        Provider(
            name="bagel",
            summary="a released BAGEL checkpoint",
            factory=_adapter,
            options=AdapterOptions,
            sampling=Thinking,
            presets=PRESETS,
            training=Training,
            trained_dtype=lambda options, training: "float32" if training.lora_rank else options.dtype,
            capabilities=frozenset(Capability),
            modules=("accelerate", "huggingface_hub"),
            extra="pip install 'srum-plugins[bagel]'",
            identity=lambda options: folder_identity(options.checkpoint, options.revision),
            weightless=_weightless,
            heads=_heads,
        )
    ]


def _adapter(options: AdapterOptions, device: str, attention: Attention | None = None) -> Any:
    from srum_bagel.released import build

    return build(options, device, attention)


def _heads(options: AdapterOptions) -> tuple[Heads, ...]:
    from srum_bagel.released import heads

    return (heads(options),)


def _weightless(options: AdapterOptions) -> Any:
    from srum_bagel.released import without_weights

    return without_weights(options)
