"""Registers the judge ``rubric``."""

from __future__ import annotations

from typing import Any

from srum_plugins.contracts import Capability
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider
from srum_rubric.options import RubricOptions


@hookimpl
def srum_judges() -> list[Provider]:
    """The model's scores in words."""
    return [
        Provider(
            name="rubric",
            summary="the model scores the whole image and its marked regions in words",
            factory=_factory,
            options=RubricOptions,
            needs=lambda options: frozenset({Capability.ANSWER}),
        )
    ]


def _factory(options: RubricOptions) -> Any:
    from srum_rubric.judge import RubricJudge

    return RubricJudge(options)
