"""Registers the judge ``choice``."""

from __future__ import annotations

from typing import Any

from srum_choice.options import ChoiceOptions
from srum_plugins.contracts import Capability
from srum_plugins.hookspecs import hookimpl
from srum_plugins.providers import Provider


@hookimpl
def srum_judges() -> list[Provider]:
    """The model's own choice probabilities."""
    return [
        Provider(
            name="choice",
            summary="the model answers the prompt's checks and one question per region by choice probabilities",
            factory=_factory,
            options=ChoiceOptions,
            needs=lambda options: frozenset({Capability.CHOICE}),
        )
    ]


def _factory(options: ChoiceOptions) -> Any:
    from srum_choice.judge import ChoiceJudge

    return ChoiceJudge(options)
