"""Registers the grounder ``native``."""

from __future__ import annotations

from typing import Any

from srum_native.options import NativeOptions
from srum_plugins.contracts import Capability
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_grounders() -> list[Provider]:
    """The model's own boxes."""
    return [
        Provider(
            name="native",
            summary="the model itself locates the prompt's phrases",
            factory=_factory,
            options=NativeOptions,
            needs=_needs,
        )
    ]


def _needs(options: NativeOptions) -> frozenset[Capability]:
    locate = Capability.LOCATE_ALL if options.at_once else Capability.LOCATE
    return frozenset({locate, Capability.ANSWER} if options.phrases == "ask" else {locate})


def _factory(options: NativeOptions) -> Any:
    from srum_native.grounder import NativeGrounder

    return NativeGrounder(options)
