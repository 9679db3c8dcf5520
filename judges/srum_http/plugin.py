"""Registers the judge ``http``."""

from __future__ import annotations

import os
from typing import Any

from srum_http.options import HttpOptions
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_judges() -> list[Provider]:
    """A model behind an endpoint."""
    return [
        Provider(
            name="http",
            summary="a model behind an OpenAI-compatible endpoint scores the image and its marked regions in words",
            factory=_factory,
            options=HttpOptions,
        )
    ]


def _factory(options: HttpOptions) -> Any:
    from srum_http.judge import HttpJudge

    return HttpJudge(options, os.environ.get(options.key_variable, ""))
