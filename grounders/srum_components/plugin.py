"""Registers the grounder ``components``."""

from __future__ import annotations

from typing import Any

from srum_components.options import ComponentsOptions
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_grounders() -> list[Provider]:
    """Connected components."""
    return [
        Provider(
            name="components",
            summary="connected regions that differ from the background colour; asks no model",
            factory=_factory,
            options=ComponentsOptions,
        )
    ]


def _factory(options: ComponentsOptions) -> Any:
    from srum_components.grounder import ComponentsGrounder

    return ComponentsGrounder(options)
