"""Registers the adapter ``janus``."""

from __future__ import annotations

from typing import Any

from srum_janus.options import AdapterOptions, Sampling, Training
from srum_janus.place import check
from srum_plugins.contracts import Capability
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_model_adapters() -> list[Provider]:
    """Janus and Janus-Pro in the layout of transformers. It writes no plan and finds no boxes."""
    return [
        Provider(
            name="janus",
            summary="a released Janus checkpoint: image tokens and cross-entropy, no flow",
            factory=_adapter,
            options=AdapterOptions,
            sampling=Sampling,
            training=Training,
            capabilities=frozenset({Capability.GENERATE, Capability.ANSWER, Capability.CHOICE, Capability.TRAIN}),
            identity=lambda options: options.identity,
            check=check,
            squared=False,
        )
    ]


def _adapter(options: AdapterOptions, device: str) -> Any:
    from srum_janus.released import build

    return build(options, device)
